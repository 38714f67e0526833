"""Stage programs as forks of the real fork server: their output, their ends, and the server's."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from multitask_operator.local import processes
from multitask_operator.local.fork_launcher import ForkLauncher
from support.training_fixtures import small_decoder

#: Adapts a base, and prints whether bitsandbytes is imported and PEFT's modules of the adapted layers.
LORA = """
import os, sys
from pathlib import Path
import torch
from multitask_api.resource.tuning import Tuning
from multitask_trainer.base_model.quantization import load_quantized
from multitask_trainer.tuning import tuning_method
from transformers import LlamaForCausalLM

os.chdir(os.environ["PYTHONPATH"])
model = tuning_method(Tuning(method="LoRA", rank=2, quantization={quantization})).prepare({base})
layers = {{type(module).__module__ for module in model.modules() if hasattr(module, "lora_A")}}
print("bitsandbytes" in sys.modules, *layers)
"""

#: Stage kind → its program: `ForkLauncher` runs it as the module ``fork_programs.KIND``.
PROGRAMS = {
    "good": "import os, sys, torch\nprint(sys.argv[1:], os.environ['GIVEN'], __name__)",
    "exits": "import sys\nsys.exit(75)",
    "says": "import sys\nsys.exit('the input is wrong')",
    "raises": "raise ValueError('it broke')",
    "lora": LORA.format(base="LlamaForCausalLM.from_pretrained('base')", quantization="None"),
    "quantized": LORA.format(
        base="load_quantized(Path('base'), torch.float32, torch.device('cpu'))", quantization="'NF4'"
    ),
    "sleeps": "import time\nprint('asleep', flush=True)\ntime.sleep(300)",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The programs, as modules that the server finds."""
    folder = tmp_path_factory.mktemp("forks")
    (folder / "fork_programs").mkdir()
    for name, text in PROGRAMS.items():
        (folder / "fork_programs" / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def launcher(folder):
    with ForkLauncher(prefix="fork_programs") as launcher:
        yield launcher


class Started:
    """A program with its log."""

    def __init__(self, launcher, folder: Path, kind: str) -> None:
        self.log = folder / f"{kind}-{time.monotonic_ns()}.log"
        environment = {
            **processes.environment(folder, 1),
            "PYTHONPATH": str(folder),
            "GIVEN": "a value",
        }
        self.process = launcher.start(kind, [Path("order.json")], self.log, environment)

    def status(self, seconds: float = 120) -> int:
        end = time.monotonic() + seconds
        while (status := self.process.poll()) is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        return status

    def until_asleep(self) -> None:
        end = time.monotonic() + 120
        while "asleep" not in processes.last_lines(self.log):
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_program_has_its_arguments_environment_and_log(launcher, folder):
    started = Started(launcher, folder, "good")
    assert started.status() == 0
    assert started.log.read_text() == "['--order', 'order.json'] a value __main__\n"


@pytest.mark.parametrize(
    ("kind", "status", "last_line"),
    [("exits", 75, ""), ("says", 1, "the input is wrong"), ("raises", 1, "ValueError: it broke")],
)
def test_a_program_ends_as_it_would_by_itself(launcher, folder, kind, status, last_line):
    started = Started(launcher, folder, kind)
    assert started.status() == status
    assert processes.last_lines(started.log) == last_line


@pytest.mark.parametrize(
    ("kind", "printed"), [("lora", "False peft.tuners.lora.layer"), ("quantized", "True peft.tuners.lora.bnb")]
)
def test_only_a_base_in_4_bits_imports_bitsandbytes(launcher, folder, kind, printed):
    small_decoder().save_pretrained(folder / "base")
    started = Started(launcher, folder, kind)
    assert started.status() == 0
    assert processes.last_lines(started.log) == printed


def test_a_program_is_stopped_with_its_group(launcher, folder):
    started = Started(launcher, folder, "sleeps")
    started.until_asleep()
    assert os.getpgid(started.process.pid) == started.process.pid
    processes.stop_all([started.process], grace=20)
    assert started.status() == -signal.SIGTERM


def test_two_programs_run_at_once_and_report_their_own_status(launcher, folder):
    asleep, good = Started(launcher, folder, "sleeps"), Started(launcher, folder, "exits")
    assert good.status() == 75
    assert asleep.process.poll() is None
    processes.signal_group(asleep.process.pid, signal.SIGKILL)
    assert asleep.status() == -signal.SIGKILL


def test_a_killed_server_takes_its_programs_along_and_the_next_one_starts(launcher, folder):
    first = Started(launcher, folder, "sleeps")
    first.until_asleep()
    server = psutil.Process(first.process.pid).parent()
    server.kill()
    assert first.status() == -signal.SIGKILL
    psutil.wait_procs([psutil.Process(first.process.pid)] if psutil.pid_exists(first.process.pid) else [], timeout=20)
    assert not psutil.pid_exists(first.process.pid)
    assert Started(launcher, folder, "good").status() == 0


def test_the_server_ends_with_its_launcher(folder):
    with ForkLauncher(prefix="fork_programs") as launcher:
        started = Started(launcher, folder, "sleeps")
        started.until_asleep()
        server = psutil.Process(started.process.pid).parent()
    assert not server.is_running()
    assert started.status() == -signal.SIGKILL


def test_without_a_server_a_program_starts_by_itself(folder):
    with ForkLauncher(server="there.is.none", prefix="fork_programs") as launcher:
        assert Started(launcher, folder, "exits").status() == 75
