"""Real engines, built by the real TensorRT-RTX without a GPU; NVIDIA's ``tensorrt`` by a stand-in of its shape."""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
from onnx import helper

from detheads.deploy.engines import builder as building
from detheads.deploy.engines.builder import build_engine
from detheads.deploy.engines.library import Library, default_capabilities, find_library
from detheads.deploy.engines.machine import Gpu, gpu_here
from detheads.deploy.engines.options import BatchProfile, EngineOptions
from detheads.foundation.errors import UserError
from tests.deploy.engines.graphs import convolution, looped, model, quantised, saved

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")

ONE_GPU = EngineOptions(BatchProfile(1, 2, 5), ("SM86",))
OLDEST = "1.4."
"""Of TensorRT-RTX, which these tests run with, too."""
ADA = Gpu(0, "NVIDIA L4", "SM89")
without_a_gpu = pytest.mark.skipif(gpu_here() is not None, reason="says what is said where there is no GPU")


@pytest.fixture(scope="module")
def library() -> Library:
    return find_library("tensorrt_rtx")


def test_builds_without_a_gpu_and_counts_types(library: Library, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    built = build_engine(
        saved(convolution(), tmp_path / "a.onnx"),
        tmp_path / "a.engine",
        ONE_GPU,
        library=library,
        precision="fp32",
        on_progress=lambda *step: told.append(step),
    )
    assert built.path.stat().st_size == built.bytes > 0
    assert built.layers.products == {"FLOAT": 1}
    assert built.layers.kinds["CONVOLUTION"] == {"FLOAT": 1}
    assert "HALF" not in built.layers.outputs
    assert built.builder == str(library) == f"tensorrt_rtx {trt.__version__}"
    assert built.options.batch == BatchProfile(1, 2, 5)
    assert built.compute_capabilities == ["SM86"]
    assert built.seconds > 0
    done = [step[1] for step in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][2] == 100
    assert len(set(done)) > 5


def test_default_architectures_start_at_ampere(library: Library) -> None:
    names = default_capabilities(library)
    assert {"SM80", "SM86", "SM89", "SM120"} <= set(names)
    assert "SM75" not in names


@pytest.mark.parametrize(
    ("graph", "precision", "products"),
    [
        (convolution(np.float16), "fp16", {"HALF": 1}),
        (quantised(), "int8", {"INT8": 1}),
        (quantised(), "mixed", {"INT8": 1}),
        (looped(), "fp32", {"FLOAT": 1}),
    ],
)
def test_precision_is_that_of_the_graph(
    graph: Any, precision: str, products: dict[str, int], library: Library, tmp_path: Path
) -> None:
    if "INT8" in products and library.version.startswith(OLDEST):
        pytest.skip(f"{library} builds no INT8 without a GPU")
    source = saved(graph, tmp_path / "a.onnx")
    built = build_engine(source, tmp_path / "a.engine", ONE_GPU, library=library, precision=precision)
    assert built.layers.products == products


def test_layers_of_a_loop_count_once(library: Library, tmp_path: Path) -> None:
    source = saved(looped(), tmp_path / "a.onnx")
    layers = build_engine(source, tmp_path / "a.engine", ONE_GPU, library=library).layers
    assert layers.kinds["ELEMENTWISE"]["FLOAT"] == 1  # the multiplication, which runs three times
    assert {"RECURRENCE", "LOOP_OUTPUT"} <= layers.kinds.keys()
    assert "TRIP_LIMIT" not in layers.kinds
    assert sum(layers.outputs.values()) == sum(sum(counts.values()) for counts in layers.kinds.values())


@pytest.mark.parametrize(
    ("graph", "precision", "said"),
    [
        (convolution(), "fp16", "said to be fp16, but none of its convolutions and matrix products are in HALF"),
        (convolution(), "int8", r"are in INT8 \(1 in FLOAT\)"),
        (convolution(), "mixed", "are in BF16 or HALF or INT8"),
        (convolution(np.float16), "fp32", "none of its convolutions"),
        (quantised(), "fp16", r"are in HALF \(1 in INT8\)"),
        (model([helper.make_node("Relu", ["floats"], ["boxes"])]), "fp16", "none of its layer outputs are in HALF"),
    ],
)
def test_an_engine_of_another_precision_than_said_is_refused(
    graph: Any, precision: str, said: str, library: Library, tmp_path: Path
) -> None:
    """Nobody gets an "fp16" engine that computes in fp32."""
    with pytest.raises(UserError, match=said):
        build_engine(saved(graph, tmp_path / "a.onnx"), tmp_path / "a.engine", library=library, precision=precision)
    assert not (tmp_path / "a.engine").exists()


def test_a_parser_error_is_verbatim_with_the_node_and_its_module(library: Library, tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["floats"], ["boxes"], name="head.tower.0/NoSuch", domain="nowhere")
    graph = model([node])
    graph.opset_import.append(helper.make_opsetid("nowhere", 1))
    with pytest.raises(UserError, match=r"node 'head.tower.0/NoSuch' \(NoSuchOperator\) of module head.tower.0: \w"):
        build_engine(saved(graph, tmp_path / "a.onnx"), tmp_path / "a.engine", library=library)
    assert not (tmp_path / "a.engine").exists()


def test_int8_in_the_form_for_cpus_says_how_to_get_the_other(library: Library, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"its INT8 has the form for CPUs, export it without --onnx-only \(node 'backbone"
    ):
        build_engine(saved(quantised(zero=3), tmp_path / "a.onnx"), tmp_path / "a.engine", library=library)


def test_damaged_file_is_one_sentence(library: Library, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match=r"tensorrt_rtx cannot read bad\.onnx"):
        build_engine(tmp_path / "bad.onnx", tmp_path / "a.engine", library=library)


def test_the_builder_s_own_words_are_heard_however_many_builders_there_were(library: Library, tmp_path: Path) -> None:
    """The library keeps to the first log of the process."""
    source = saved(convolution(), tmp_path / "a.onnx")
    others = [library.module.Builder(library.log), library.module.Builder(library.log)]
    with pytest.raises(UserError, match=r"could not build a\.onnx: a layer needs more memory.* raise --workspace-gb"):
        build_engine(source, tmp_path / "a.engine", EngineOptions(workspace_gb=1e-6), library=library)
    assert len(others) == 2
    assert not (tmp_path / "a.engine").exists()


@without_a_gpu
@pytest.mark.parametrize("option", ["strip_weights", "refittable"])
def test_weights_that_are_put_back_later_need_a_gpu_to_build(option: str, library: Library, tmp_path: Path) -> None:
    source = saved(convolution(), tmp_path / "a.onnx")
    with pytest.raises(UserError, match="put back later need a GPU while the engine is built, and there is none"):
        build_engine(source, tmp_path / "a.engine", EngineOptions(**{option: True}), library=library)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"version_compatible": True}, "no --version-compatible: its engines run with the release that built them"),
        ({"hardware_compatible": True}, "no --hardware-compatible: .* name them with --compute-capability"),
        ({"timing_cache": Path("timings")}, "no --timing-cache: its timing cache does nothing"),
        ({"capabilities": ("SM10",)}, r"cannot compile for SM10; it offers SM75, SM80, SM86, SM89, SM120"),
    ],
)
def test_what_tensorrt_rtx_has_not_is_refused(options: dict[str, Any], said: str, library: Library) -> None:
    with pytest.raises(UserError, match=said):
        EngineOptions(**options).require_possible(library)


def test_an_interrupted_build_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl+C in another process, in the middle of the library's work."""
    script = """
import os, signal, sys
from pathlib import Path
from detheads.deploy.engines.builder import build_engine
from detheads.deploy.engines.library import find_library
def interrupt(step, done, total):
    os.kill(os.getpid(), signal.SIGINT)  # again and again, as people do
try:
    build_engine(Path(sys.argv[1]), Path(sys.argv[2]), library=find_library("tensorrt_rtx"), on_progress=interrupt)
except KeyboardInterrupt:
    sys.exit(130)
"""
    source = saved(convolution(), tmp_path / "a.onnx")
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "a.engine")]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Exception caught" not in done.stderr
    assert time.perf_counter() - started < 30
    assert [path.name for path in tmp_path.iterdir()] == ["a.onnx"]


@pytest.mark.parametrize("text", ["", "8:4:1", "1:4", "0:1:2", "a:b:c", "1:4:99999"])
def test_unusable_batch_profiles(text: str) -> None:
    with pytest.raises(UserError, match=r"1:4:8"):
        BatchProfile.parse(text)


def test_batch_profile_text() -> None:
    assert BatchProfile.parse("1:4:8") == BatchProfile(1, 4, 8)
    assert BatchProfile.parse("2") == BatchProfile(2, 2, 2)
    assert str(BatchProfile(1, 4, 8)) == "1:4:8"


class Config:
    """What TensorRT 10 or 11 is told: its real setters, whose calls are recorded."""

    def __init__(self, timings: bytes = b"timings of a build", accepts: bool = True) -> None:
        self.config = create_autospec(trt.IBuilderConfig, instance=True)
        self.config.create_timing_cache.side_effect = self.offered
        self.config.set_timing_cache.return_value = accepts
        self.config.get_timing_cache.return_value.serialize.return_value = timings
        self.loaded: list[bytes] = []

    def offered(self, content: bytes) -> Any:
        self.loaded.append(content)
        return create_autospec(trt.ITimingCache, instance=True)

    @property
    def flags(self) -> list[Any]:
        return [call.args[0] for call in self.config.set_flag.call_args_list]


@pytest.fixture
def enterprise(monkeypatch: pytest.MonkeyPatch) -> tuple[Library, Config]:
    """NVIDIA's ``tensorrt`` on a machine with a GPU: the shared API with a builder that writes no real engine."""
    config = Config()
    real_parser, real_builder = trt.OnnxParser, trt.Builder

    class Builder:
        def __init__(self, log: Any) -> None:
            self.real = real_builder(log)

        def create_builder_config(self) -> Any:
            return config.config

        def build_serialized_network(self, network: Any, given: Any) -> bytes:
            assert given is config.config
            return b"an engine"

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    module = ModuleType("tensorrt")
    vars(module).update({name: value for name, value in vars(trt).items() if not name.startswith("__")})
    vars(module).update(Builder=Builder, OnnxParser=real_parser, __version__="10.9.0.34")
    library = Library(module, "tensorrt", "10.9.0.34")
    monkeypatch.setattr(building, "gpu_here", lambda: ADA)
    return library, config


def test_tensorrt_is_told_every_option_and_builds_for_its_own_gpu(
    enterprise: tuple[Library, Config], tmp_path: Path
) -> None:
    library, config = enterprise
    options = EngineOptions(
        workspace_gb=2, version_compatible=True, hardware_compatible=True, strip_weights=True, refittable=True
    )
    built = build_engine(saved(convolution(), tmp_path / "a.onnx"), tmp_path / "a.engine", options, library=library)
    flags = trt.BuilderFlag
    assert config.flags == [flags.VERSION_COMPATIBLE, flags.STRIP_PLAN, flags.REFIT_IDENTICAL, flags.REFIT]
    config.config.clear_flag.assert_called_once_with(trt.BuilderFlag.TF32)
    assert config.config.set_memory_pool_limit.call_args.args == (trt.MemoryPoolType.WORKSPACE, 2 * 10**9)
    assert config.config.hardware_compatibility_level == trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert config.config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    config.config.set_compute_capability.assert_not_called()
    assert (built.compute_capabilities, built.gpu) == (["SM89"], "NVIDIA L4")
    assert (tmp_path / "a.engine").read_bytes() == b"an engine"


def test_tensorrt_compiles_for_no_list_of_gpus(enterprise: tuple[Library, Config]) -> None:
    with pytest.raises(UserError, match=r"tensorrt 10\.9\.0\.34 cannot compile for SM86; it offers only the GPU"):
        EngineOptions(capabilities=("SM86",)).require_possible(enterprise[0])


def test_an_older_tensorrt_says_what_it_lacks(enterprise: tuple[Library, Config]) -> None:
    library, _ = enterprise
    del library.module.HardwareCompatibilityLevel
    with pytest.raises(UserError, match="has no AMPERE_PLUS; upgrade it or leave the option out"):
        EngineOptions(hardware_compatible=True).require_possible(library)


def test_timings_are_kept_for_one_version_on_one_gpu(
    enterprise: tuple[Library, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, config = enterprise
    timings = tmp_path / "timings"
    options = EngineOptions(timing_cache=timings)
    source, engine = saved(convolution(), tmp_path / "a.onnx"), tmp_path / "a.engine"
    for _ in range(2):
        build_engine(source, engine, options, library=library)
    assert config.loaded == [b"", b"timings of a build"]
    upgraded = Library(library.module, "tensorrt", "10.13.0")
    with pytest.raises(UserError, match=r"timings of tensorrt 10\.9\.0\.34, and this is tensorrt 10\.13\.0"):
        build_engine(source, engine, options, library=upgraded)
    monkeypatch.setattr(building, "gpu_here", lambda: Gpu(0, "NVIDIA A10", "SM86"))
    with pytest.raises(UserError, match=r"timings of NVIDIA L4 \(SM89\), and this is NVIDIA A10 \(SM86\)"):
        build_engine(source, engine, options, library=library)
    config.config.set_timing_cache.return_value = False
    monkeypatch.setattr(building, "gpu_here", lambda: ADA)
    with pytest.raises(UserError, match=r"refuses the timings in .*; remove the file"):
        build_engine(source, engine, options, library=library)
    timings.write_bytes(b"something else")
    with pytest.raises(UserError, match="is not a timing cache of detheads"):
        build_engine(source, engine, options, library=library)
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        build_engine(source, engine, EngineOptions(timing_cache=tmp_path), library=library)
