"""Reads a study with its model, and finds out what its runs read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from multitask_api.errors import InvalidResource, Problem, UserError
from multitask_api.resource import MultiTaskModel, yaml_loader
from multitask_api.stage_io.manifest import Resolved
from multitask_operator.commands.plan import default_workdir
from multitask_operator.local import model_file
from multitask_operator.local.workdir import Workdir
from multitask_operator.study.arms import Run, arms_of, runs_of
from multitask_operator.study.spec import Study, parse

ResolvedRuns = tuple[tuple[Run, Resolved], ...]


@dataclass(frozen=True)
class LoadedStudy:
    """A study, its model, and its runs."""

    study: Study
    model: MultiTaskModel
    model_path: Path
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.metadata.name

    @property
    def data_root(self) -> Path:
        """The folder that the model's relative data URIs are relative to."""
        return model_file.data_root(self.model_path)

    @property
    def total_steps(self) -> int | None:
        """Steps of stages 2 and 3, if the study or the model gives them."""
        return self.study.total_steps or self.model.spec.stages.total_steps

    def workdir(self, given: Path | None) -> Workdir:
        """The work folder: that of the model, so that what `mtm run` has made is used."""
        return Workdir(given or default_workdir(self.model_path, self.model))

    def resolved(self, workdir: Workdir, *, rows: bool = False) -> ResolvedRuns:
        """Every run with the fingerprints of what it reads, which arms with another pre-training may differ in.

        ``rows``: with how long its rows are.
        """
        found: dict[str, Resolved] = {}
        for run in self.runs:
            key = _corpus(run)
            if key not in found:
                found[key] = model_file.resolve(run.arm.model, self.data_root, workdir, rows=rows)
        return tuple((run, found[_corpus(run)]) for run in self.runs)


def load(file: Path) -> LoadedStudy:
    """Read and check a study and its model. Raises UserError; its message names every problem."""
    text = model_file.read_text(file, "Study")
    if model_file.kind_of(text) == "MultiTaskModel":
        raise UserError(
            f"{file} is a MultiTaskModel, not a Study; `mtm run` trains it, and a Study with model: {file.name}"
            " compares ways to train it"
        )
    try:
        study = parse(text)
        path = _model_path(file, study)
        model = model_file.load(path)
        arms = arms_of(study, yaml_loader.load(path.read_text("utf-8")))
    except InvalidResource as error:  # a problem without a field concerns the file
        raise InvalidResource([Problem(item.path or str(file), item.message) for item in error.problems]) from error
    return LoadedStudy(study, model, path, runs_of(study, arms))


def _model_path(file: Path, study: Study) -> Path:
    path = file.parent / study.model
    path = path / "model.yaml" if path.is_dir() else path
    if not path.is_file():
        raise InvalidResource([Problem("model", f"{path} does not exist; give the path of a MultiTaskModel file")])
    if model_file.kind_of(model_file.read_text(path, "MultiTaskModel")) == "Study":
        raise InvalidResource([Problem("model", f"{path} is a Study; give the path of a MultiTaskModel file")])
    return path


def _corpus(run: Run) -> str:
    pretraining = run.arm.model.spec.pretraining
    return "" if pretraining is None else " ".join(source.uri for source in pretraining.corpus)
