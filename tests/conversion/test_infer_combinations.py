"""Any two flags of `svc infer`: they sing and both are heard, or one line refuses them.

Nets are tiny and of random weights. The song is a tone with a breath and a hiss in the middle, so
that there are unvoiced frames. `docs/voices.md` has the same table, and a test compares both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import io
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from svc.audio.io import open_audio, read_audio, write_audio
from svc.audio.pitch import F0Track
from svc.checkpoint import save_checkpoint
from svc.cli.main import main
from svc.f0.curve import FrameGrid, write_curve
from svc.f0.range_files import write_ranges
from svc.f0.voice_range import VoiceRange
from svc.onnx_runtime import open_session
from svc.retrieval.index_build import build_index
from svc.retrieval.index_files import IndexRecord, SpeakerRecord, write_index, write_record
from svc.synthesizer import Synthesizer

pytest.importorskip("onnxruntime")

SR = 44100
SPEAKERS = {"alice": 0, "bob": 1}
FLAGS = (
    "-cr", "--protect", "-usm", "-a", "-lea", "--keep_breath", "--keep_unvoiced", "-shd", "-se", "-od",
    "-eh", "--f0", "-t auto", "--compat", "--backend onnx",
)  # fmt: skip
NEEDS = {"-se": "-shd", "--protect": "-cr"}  # without it -se is refused, --protect gets a note
REFUSED: dict[frozenset[str], str] = {
    frozenset(pair): text
    for *pair, text in (
        ("-cr", "-usm", "-cr/--cluster_infer_ratio and -usm/--use_spk_mix: clusters and index"),
        ("-a", "--f0", "--f0 and -a/--auto_predict_f0: sing the curve or let the voice choose"),
        ("-a", "-t auto", "-t auto and -a/--auto_predict_f0: there is no melody to transpose"),
        ("-a", "-od", "-a/--auto_predict_f0 and -od/--only_diffusion: a diffusion model sings"),
        ("-shd", "-od", "-od/--only_diffusion and -shd/--shallow_diffusion: the diffusion model"),
        ("-se", "-od", "-se/--second_encoding and -od/--only_diffusion: there is no first result"),
        ("-eh", "-shd", "-eh/--enhance and diffusion (-shd or -od): a vocoder has sung"),
        ("-eh", "-od", "-eh/--enhance and diffusion (-shd or -od): a vocoder has sung"),
        ("-eh", "--backend onnx", "-eh/--enhance and an exported voice: its graphs have no"),
        ("-od", "--backend onnx", "-od/--only_diffusion and --backend onnx: use --backend torch"),
        ("--compat", "--backend onnx", "--compat needs --backend torch: graphs compute in one way"),
    )
}  # fmt: skip
HEARD = 1e-3  # of full scale: a flag that changes no sample by this much would be no help

Flags = frozenset[str]


def _beside(path: Path) -> Any:
    """Import a module that is no test: pytest's way of importing tests knows no neighbours."""
    spec = importlib.util.spec_from_file_location(f"svc_tests_combinations_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Done:
    """What a run left behind; the song may have been read, or not."""

    code: int
    err: str
    wav: np.ndarray | None
    songs_read: int

    @property
    def told(self) -> list[str]:
        """Notes and errors."""
        return [line for line in self.err.splitlines() if not line.startswith("infer: ")]


class Stage:
    """A voice with everything that flags can ask for, and the results so far."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.results, self.songs_read = folder, dict[Flags, Done](), 0
        conftest = _beside(Path(__file__).with_name("conftest.py"))
        make = _beside(Path(__file__).with_name("small_diffusion.py"))
        config = dataclasses.replace(conftest.whisper_config(n_speakers=2), spk=SPEAKERS)
        path = conftest.write_voice(folder, config)
        net = Synthesizer.from_config(config)
        with torch.no_grad():  # an untrained net hardly heeds pitch and speaker, and is too loud
            net.dec.conv_post.weight_g.mul_(0.3)
            net.dec.conv_post.bias.zero_()
            net.dec.conv_pre.weight_g.mul_(10.0)
            net.dec.m_source.l_linear.weight.fill_(1.0)
            net.dec.cond.weight.mul_(300.0)
        whole = {"model": net.state_dict(), "iteration": 1, "optimizer": None, "learning_rate": 0}
        save_checkpoint(whole, path)
        vocoder = make.write_vocoder(folder / "vocoder")
        fitting = make.diffusion_config(vocoder, SPEAKERS, encoder="whisper-ppg-tiny", width=384)
        make.write_diffusion(folder / "diffusion", fitting)
        high = VoiceRange(60.0, tuple(np.geomspace(300, 700, 7)))
        for home in (folder, folder / "diffusion"):
            write_ranges(home / "voice_range.json", dict.fromkeys(SPEAKERS, high))
        random = np.random.default_rng(0)
        rows = random.standard_normal((60, 384)).astype(np.float32)
        (folder / "feature_index").mkdir()
        digest = write_index(build_index(rows, seed=1), folder / "feature_index" / "Index-0.index")
        entry = SpeakerRecord(0, "Index-0.index", 60, 60, False, 1, 1, 1, digest)
        record = IndexRecord("whisper-ppg-tiny", 384, "test", {"alice": entry})
        write_record(folder / "feature_index", record)
        time = np.arange(round(0.6 * SR)) / SR
        tone = 0.4 * np.sin(2 * np.pi * 220 * time) + 0.1 * np.sin(2 * np.pi * 440 * time)
        noise = random.standard_normal(time.size)
        breath, hiss = (time > 0.2) & (time < 0.34), (time >= 0.34) & (time < 0.4)
        wav = np.where(breath, 0.06 * noise, np.where(hiss, 0.1 * np.gradient(noise), tone))
        write_audio(folder / "song.wav", wav.astype(np.float32), SR)
        n_frames = time.size // 512
        sung = ~(breath | hiss)[::512][:n_frames]
        curve = F0Track(np.linspace(150, 180, n_frames), sung)
        write_curve(folder / "song.csv", curve, FrameGrid())

        words = ["-m", str(folder / "G_100.pth"), "-o", str(folder / "graphs")]
        words += ["--diffusion", str(folder / "diffusion" / "model_100.pt")]
        with contextlib.redirect_stderr(io.StringIO()):
            assert main(["onnx-export", "--profile", "full", *words]) == 0
        monkeypatch.chdir(folder)
        monkeypatch.setattr(
            "svc.conversion.listening.build_speech_encoder",
            lambda name, **_: conftest.StubEncoder(name, 384),
        )

        def read(path: Path) -> Any:
            self.songs_read += 1
            return open_audio(path)

        monkeypatch.setattr("svc.conversion.file_source.open_audio", read)
        monkeypatch.setattr("svc.conversion.onnx_parts.open_session", functools.cache(open_session))

    def words(self, flags: Flags) -> list[str]:
        """Return a command line with these flags; none of them changes what another one means."""
        words = ["-n", "song.wav", "--output", "out.wav", "-d", "cpu", "-p", "0.1"]
        diffusion = str(self.folder / "diffusion" / "model_100.pt")
        if "-od" in flags:
            words += ["-od", "-dm", diffusion]
        else:
            words += [
                "-m",
                str(self.folder / ("graphs" if "--backend onnx" in flags else "G_100.pth")),
            ]
        if flags & {"-shd", "-od"}:
            words += ["--diffusion_method", "ddim", "--diffusion_speedup", "20"]
        spelled = {
            "-cr": ["-cr", "0.7", "-fr", "-cm", str(self.folder / "feature_index")],
            "--protect": ["--protect", "0.9"],
            "-usm": ["-usm", "--spk_mix", "alice=1,bob=2"],
            "-lea": ["-lea", "0"],
            "--keep_breath": ["--keep_breath", "1"],
            "--keep_unvoiced": ["--keep_unvoiced", "0.9"],
            "-eh": ["-eh", "--vocoder", str(self.folder / "vocoder")],
            "--f0": ["--f0", str(self.folder / "song.csv")],
            "-t auto": ["-t", "auto"],
            "--backend onnx": ["--backend", "onnx"],
        }
        for flag in sorted(flags - {"-od"}):
            words += spelled.get(flag, [flag])
        return words if "-usm" in flags else [*words, "-s", "alice"]

    def sing(self, *flags: str) -> Done:
        """Run the command, once for each set of flags."""
        key = frozenset(flags)
        if key not in self.results:
            out, err = io.StringIO(), io.StringIO()
            before = self.songs_read
            Path("out.wav").unlink(missing_ok=True)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(["infer", *self.words(key)])
            wav = read_audio("out.wav")[0] if Path("out.wav").exists() else None
            self.results[key] = Done(code, err.getvalue(), wav, self.songs_read - before)
        return self.results[key]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Stage(tmp_path_factory.mktemp("stage"), monkeypatch)


def check_refused(done: Done, text: str) -> None:
    assert done.code == 2
    assert done.songs_read == 0
    assert done.wav is None
    (line,) = done.told
    assert line.startswith("svc: error: ")
    assert text in line


def check_heard(stage: Stage, flag: str, others: Flags) -> None:
    """The flag changes samples, or a note says that it cannot."""
    done = stage.sing(flag, *others)
    assert done.code == 0, done.err
    assert done.wav is not None
    assert done.wav.size == round(0.6 * SR)
    assert np.abs(done.wav).max() > 0.01
    without = stage.sing(*others).wav
    assert without is not None
    changed = float(np.abs(done.wav - without).max())
    notes = [line for line in done.told if line.startswith("svc: note: ")]
    if flag == "--protect" and "-cr" not in others:
        assert changed == 0
        assert notes == ["svc: note: -cm, -fr, --protect, --index_k and --index_nprobe have no effect "
                         "without -cr"]  # fmt: skip
    else:
        assert changed > HEARD
        assert not [note for note in notes if "--protect" not in note]


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_alone(stage: Stage, flag: str) -> None:
    if flag == "-se":
        check_refused(stage.sing(flag), "-se/--second_encoding needs -shd")
    else:
        check_heard(stage, flag, frozenset())


@pytest.mark.parametrize("pair", list(itertools.combinations(FLAGS, 2)), ids=" and ".join)
def test_any_two_flags(stage: Stage, pair: tuple[str, str]) -> None:
    text = REFUSED.get(frozenset(pair))
    if text is None and "-se" in pair and "-shd" not in pair:
        text = "-se/--second_encoding needs -shd"
    if text is not None:
        check_refused(stage.sing(*pair), text)
        return
    for flag, other in (pair, pair[::-1]):
        if NEEDS.get(other) != flag or other == "--protect":
            check_heard(stage, flag, frozenset({other}))


@pytest.mark.parametrize("flag", ["-se", "--protect"])
@pytest.mark.parametrize("third", FLAGS)
def test_flags_that_need_another_one(stage: Stage, flag: str, third: str) -> None:
    """With what they need and any third flag."""
    base = NEEDS[flag]
    if third in (flag, base) or NEEDS.get(third, base) not in (base, flag):
        return
    refused = REFUSED.get(frozenset({flag, third})) or REFUSED.get(frozenset({base, third}))
    if refused is None:
        check_heard(stage, flag, frozenset({base, third}))
    else:
        done = stage.sing(flag, base, third)
        assert (done.code, done.songs_read, len(done.told)) == (2, 0, 1)


def test_diffusion_alone_finds_what_belongs_to_the_voice(stage: Stage) -> None:
    """Its models lie in a folder of the voice's folder, which holds the index."""
    expected = stage.sing("-od", "-cr").wav
    assert expected is not None
    words = stage.words(frozenset({"-od", "-cr"}))
    at = words.index("-cm")
    assert main(["infer", *words[:at], *words[at + 2 :]]) == 0
    np.testing.assert_array_equal(read_audio("out.wav")[0], expected)


def test_the_table_in_the_documentation() -> None:
    page = Path(__file__).parents[2] / "docs" / "voices.md"
    section = page.read_text(encoding="utf-8").partition("## Which flags go together")[2]
    rows = re.findall(r"^\| `(-[^`]+)` \|([^|]*)\|([^|]*)\|", section.partition("\n## ")[0], re.M)
    assert [flag for flag, _, _ in rows] == list(FLAGS)
    for flag, needed, refused in rows:
        assert re.findall(r"`([^`]+)`", needed) == ([NEEDS[flag]] if flag in NEEDS else [])
        others = {other for pair in REFUSED if flag in pair for other in pair} - {flag}
        assert set(re.findall(r"`([^`]+)`", refused)) == others, flag
