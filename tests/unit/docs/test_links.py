"""The pages for readers: what they link to and what they name exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from multitask_operator.cli import invoke

ROOT = Path(__file__).parents[3]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "examples/*/README.md")
    for path in ROOT.glob(pattern)
)
PACKAGES = {
    "multitask_api": ROOT / "crds/src",
    "multitask_client": ROOT / "client/src",
    "multitask_kubernetes": ROOT / "kubernetes-client/src",
    "multitask_serving": ROOT / "serving/src",
    "multitask_trainer": ROOT / "trainer-image/src",
    "multitask_operator": ROOT / "operator/src",
    "devcluster": ROOT / "tools",
}
FOLDERS = (
    "client",
    "crds",
    "docs",
    "examples",
    "helm",
    "kubernetes-client",
    "operator",
    "serving",
    "tests",
    "tools",
    "trainer-image",
)
GENERATED_BY_A_USER = ("examples/support-desk/data",)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)\)")
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
CLASS = re.compile(r"\b(?:[A-Z][a-z]+){2,}\b")
KUBERNETES = {"ConfigMap", "ConfigMaps"}
PYTHON_FILE = re.compile(r"(?<![\w./-])(?:[\w-]+/)*[\w-]+\.py\b")
MODULE = re.compile(rf"\b(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
MAKE = re.compile(r"(?<![\w-])make ([a-z][a-z0-9-]*)")
MTM = re.compile(r"(?:^|[\s`$/])mtm ([a-z]+)(?=[\s`]|$)", re.MULTILINE)
MTM_LINE = re.compile(r"^(?:\$ )?mtm ([a-z]+)(.*)$")
OPTION = re.compile(r"(?<= )--?[a-z][a-z-]*\b")
REASON_ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|", re.MULTILINE)
ADVICE = "docs/how-to/troubleshoot.md"


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


@cache
def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", text_of(page))


def blocks(page: str, *languages: str) -> list[str]:
    return [match[3] for match in FENCE.finditer(text_of(page)) if match[2] in languages]


def code(page: str) -> list[str]:
    return [match[2] for match in CODE.finditer(prose(page))]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    counts: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        count = counts[slug] = counts.get(slug, -1) + 1
        if count:
            counts[f"{slug}-{count}"] = 0
    return frozenset(counts)


@cache
def python_files() -> tuple[str, ...]:
    """Every Python file of the repository, with a slash before its path."""
    return tuple(f"/{path.relative_to(ROOT)}" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_exists(name: str) -> bool:
    """Whether ``name`` is a module, or something that a module defines or imports."""
    first, *rest = name.split(".")
    location = PACKAGES[first] / first
    for index, part in enumerate(rest):
        if (location / part).is_dir() or (location / f"{part}.py").is_file():
            location = location / part
            continue
        module = location / "__init__.py" if location.is_dir() else location.with_suffix(".py")
        content = module.read_text("utf-8") if module.is_file() else ""
        return index == len(rest) - 1 and re.search(rf"\b{part}\b", content) is not None
    return True


def missing_links(page: str) -> Iterator[str]:
    without_code = re.sub(r"`[^`\n]*`", "`…`", prose(page))  # a pattern in backticks looks like a link
    for target in LINK.findall(without_code):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            yield target


def missing_names(page: str) -> Iterator[str]:
    for part in (*code(page), *blocks(page, "mermaid")):
        for name in PYTHON_FILE.findall(part):
            if not any(file.endswith(f"/{name}") for file in python_files()):
                yield name
        for name in MODULE.findall(part):
            if not module_exists(name):
                yield name
    for part in code(page):
        path = part.partition(" ")[0]
        is_path = "/" in path and path.partition("/")[0] in FOLDERS and path not in GENERATED_BY_A_USER
        if is_path and not list(ROOT.glob(path.rstrip("/"))):
            yield path


def test_there_are_pages():
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    assert list(missing_links(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_and_module_that_a_page_names_exists(page):
    assert list(missing_names(page)) == []


def test_every_class_that_the_architecture_names_exists():
    page = "docs/architecture.md"
    named = {name for part in (*code(page), *blocks(page, "mermaid")) for name in CLASS.findall(part)}
    files = [path for folder in PACKAGES.values() for path in folder.rglob("*.py")]
    defined = {name for path in files for name in re.findall(r"^class (\w+)", path.read_text("utf-8"), re.MULTILINE)}
    assert len(named) > 5
    assert named - defined - KUBERNETES == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_shows_exists(page, capsys):
    def help_of(*command):
        assert invoke([*command, "--help"]) == 0
        return capsys.readouterr().out

    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shown = [*code(page), *blocks(page, "", "sh", "bash")]
    assert {name for part in shown for name in MAKE.findall(part)} <= targets
    commands = set(re.findall(r"^  (\w+) ", help_of().partition("Commands:")[2], re.MULTILINE))
    assert {name for part in shown for name in MTM.findall(part)} <= commands
    for line in (line.partition("#")[0] for part in shown for line in part.splitlines()):
        for name, arguments in MTM_LINE.findall(line):
            if options := set(OPTION.findall(arguments)) if name != "predict" else ():  # which is another program's
                assert options <= set(OPTION.findall(help_of(name))), line


def test_every_page_can_be_reached_from_the_index():
    reached, todo = set(), [ROOT / "docs/README.md"]
    while todo:
        page = todo.pop().resolve()
        if page in reached or not page.is_file() or page.suffix != ".md":
            continue
        reached.add(page)
        links = LINK.findall(FENCE.sub("", page.read_text("utf-8")))
        todo += [page.parent / link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert {page for page in PAGES if ROOT / page not in reached} == set()


def test_the_table_of_reasons_names_those_of_the_operator_and_no_others():
    sources = "\n".join(
        path.read_text("utf-8")
        for path in sorted((PACKAGES["multitask_operator"] / "multitask_operator").rglob("*.py"))
    )
    named = {name for row in REASON_ROW.findall(text_of(ADVICE)) for name in re.findall(r"\w+", row)}
    assert {name for name in named if f'"{name}"' not in sources} == set()
    blocking = set(re.findall(r'\bBlocker\(\s*"(\w+)"', sources)) | set(re.findall(r'\bDiagnosis\(\s*"(\w+)"', sources))
    assert len(blocking) > 10
    assert blocking - named == set()


def test_the_page_about_operating_names_every_reason_of_a_rollout_and_no_others():
    folder = PACKAGES["multitask_operator"] / "multitask_operator" / "rollout"
    sources = "\n".join(path.read_text("utf-8") for path in sorted(folder.rglob("*.py")))
    reasons = set(re.findall(r'\.waiting\(\s*"(\w+)"', sources))
    reasons |= set(re.findall(r'^(?:WAITING|MAKING)\w* = "(\w+)"', sources, re.MULTILINE))
    reasons |= {name for text in re.findall(r"reason=(.*?), message", sources) for name in re.findall(r'"(\w+)"', text)}
    events = set(re.findall(r'\.event\(\s*"(\w+)"', sources))
    events |= set(re.findall(r'reject_revision\(.*?, "(\w+)",', sources))
    page = text_of("docs/how-to/operate.md").partition("## A rollout")[2].partition("\n## ")[0]
    rows = [set(re.findall(r"`(\w+)`", row)) for row in re.findall(r"^\| (`[A-Z].*?) \|", page, re.MULTILINE)]
    assert len(reasons) > 10
    assert set().union(*rows) == reasons | events


@pytest.mark.parametrize(("who", "file"), [("operator", "_helpers.tpl"), ("gateway", "_gateway.tpl")])
def test_the_table_of_rights_is_the_role_of_the_chart(who, file):
    template = (ROOT / "helm/multitask-operator/templates" / file).read_text("utf-8")
    rules = yaml.safe_load(template.partition(f'define "{who}.rules" -}}}}')[2].partition("{{- end }}")[0])
    granted = {(resource, *rule["verbs"]) for rule in rules for resource in rule["resources"]}
    section = text_of("SECURITY.md").partition(f"## What the {who} may do")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| ([a-z, ]+) \| .* \|$", section, re.MULTILINE)
    # of `events` (`events.k8s.io`) the second name is the group
    names = [re.findall(r"`([\w/]+)`", row.partition(" (")[0]) for row, _ in rows]
    assert granted == {
        (name, *verbs.split(", ")) for each, (_, verbs) in zip(names, rows, strict=True) for name in each
    }


def test_the_table_of_settings_names_values_of_the_chart():
    values = yaml.safe_load((ROOT / "helm/multitask-operator/values.yaml").read_text("utf-8"))
    page = text_of("docs/how-to/install.md")
    rows = re.findall(r"^\| (`.+?`) \| .* \|$", page[page.index("## Settings") :], re.MULTILINE)
    assert rows
    for name in (name for row in rows for name in re.findall(r"`([\w.]+)`", row)):
        value = values
        for part in name.split("."):
            assert part in value, name
            value = value[part]
