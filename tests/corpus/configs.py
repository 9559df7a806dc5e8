"""Malformed configurations and settings."""

from __future__ import annotations

from pathlib import Path

from tests.corpus.base import LAD, PAA, Base, Case, check


def _setting(setting: str, *says: str, config: Path = PAA) -> Case:
    def make(base: Base, folder: Path) -> list[str]:
        return check(config, base.data, folder, setting)

    return Case(f"--set {setting:.50}", make, says)


def _file(name: str, text: str | bytes, *says: str) -> Case:
    def make(base: Base, folder: Path) -> list[str]:
        path = folder / "mine.py"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return check(path, base.data, folder)

    return Case(f"file: {name}", make, ("mine.py", *says))


LONG = "a" * 300
SOUND = f"_base_ = [{str(PAA)!r}]\n"

CASES = [
    _setting("train.batchsize=3", "did you mean train.batch_size"),
    _setting("train.batch_size=many", "train.batch_size", "many"),
    _setting("train.batch_size=0", "train.batch_size"),
    _setting("train.batch_size=1.5", "train.batch_size"),
    _setting("train.max_epochs=3", "train.max_epochs", "train.max_iterations"),
    _setting("train.precision=fp8", "train.precision", "fp8"),
    _setting("train.optimizer.type=Adamm", "networks.r18", "Adamm"),
    _setting("train.optimizer.learning_rate=1", "networks.r18", "learning_rate"),
    _setting("train.optimizer.lr=fast", "optimizer", "fast"),
    _setting("train.param_scheduler=[{'type': 'Never'}]", "param_scheduler", "Never"),
    _setting("train.param_scheduler=[3]", "train.param_scheduler[0]", "3"),
    _setting("train.max_iterations=5", "train.param_scheduler[0]", "OneCycleLR", "max_iterations"),
    _setting("train.clip_grad=-1", "train.clip_grad"),
    _setting("assigner.type=PPA", "assigner", "PPA"),
    _setting("assigner.topkk=3", "assigner", "topkk"),
    _setting("assigner.topk=-1", "assigner", "topk"),
    _setting("assigner=3", "assigner", "3"),
    _setting("switch.criterion=best", "switch.criterion", "best"),
    _setting("switch.scope=world", "switch.scope", "world"),
    _setting("switch.criterion=fixed", "switch.teacher"),
    _setting("switch.criterion=std_mean", "switch.criterion", "two networks"),
    _setting("networks.r18.preset=tiny_r17", "networks.r18", "tiny_r17"),
    _setting("networks.r18.learner=False", "networks.r18", "checkpoint"),
    _setting("networks.r18.model.bbox_head.num_classes=7", "networks.r18", "num_classes"),
    _setting("networks.r18.model.backbone.type=NoNet", "networks.r18", "NoNet"),
    _setting("networks.r18.model.backbone.depth=19", "networks.r18", "19"),
    _setting("networks.r18.model.neck.in_channels=[1,2]", "networks.r18"),
    _setting("networks.r18.config=mmdet::paa/none.py", "networks.r18"),
    _setting("networks.r18=3", "networks.r18", "3"),
    _setting("networks.9lives.preset=tiny_r18", "networks.9lives"),
    _setting("data.scale=[0,64]", "data.scale"),
    _setting("data.scale=64", "data.scale"),
    _setting("data.flip=2", "data.flip"),
    _setting("data.val=none.json", "none.json"),
    _setting("data.images=nowhere", "nowhere"),
    _setting("data.classes=[circle,hexagon]", "hexagon"),
    _setting("data.root=nowhere", "data.root", "nowhere"),
    _setting("data.train_pipeline=[{'type': 'LoadImage'}]", "data.train_pipeline", "LoadImage"),
    _setting("data.test_pipeline=[{'type': 'PackDetInputs'}]", "data.test_pipeline"),
    _setting("data.min_size=500", "data.min_size"),
    _setting("evaluation.backend=mine", "evaluation.backend"),
    _setting("evaluation.interval=0", "evaluation.interval"),
    _setting("checkpoint.keep=0", "checkpoint.keep"),
    _setting("resources.ranks=3", "resources.ranks", "train.batch_size"),
    _setting("resources.gpus_per_network=lots", "resources.gpus_per_network"),
    _setting("feed.workers=-1", "feed.workers"),
    _setting("feed.placement=moon", "feed.placement"),
    _setting("seed=-1", "seed"),
    _setting("lookahead=0", "lookahead"),
    _setting("train.batch_size=99999999999999999999", "train.batch_size", "finite"),
    _setting("train.batch_size=1000000", "train.batch_size", "at most 65536"),
    _setting("networks.r18.model.test_cfg=3", "networks.r18.model.test_cfg"),
    _setting("networks.r18.model.test_cfg.nms={'type': 'x'}", "networks.r18.model.test_cfg", "x"),
    *(
        _setting(f"networks.r18.model.data_preprocessor.{setting}", "networks.r18.model", says)
        for setting, says in (
            ("mean=[1,2]", "`mean`"),
            ("std=[0,0,0]", "data_preprocessor: no prediction"),
            ("pad_size_divisor=0", "data_preprocessor: no prediction"),
        )
    ),
    _setting("train.clip_grad=1e400", "train.clip_grad", "finite"),
    _setting("seed=" + "9" * 5000, "seed"),
    _setting("seed=1" + "0" * 100, "seed", "2^128"),
    _setting("checkpoint.upload=s3://[::1", "checkpoint.upload", "IPv6"),
    _setting(f"data.root={LONG}", LONG[:40], "too long"),
    _setting(f"data.images={LONG}", LONG[:40], "too long"),
    _setting("custom_imports=['']", "custom_imports", "''"),
    _setting("custom_imports=['../x']", "custom_imports", "'../x'"),
    _setting(f"networks.r18.checkpoint={LONG}", "networks.<name>.checkpoint", "too long"),
    _setting(f"networks.r18.pretrained={LONG}", "networks.r18.pretrained", "no such file"),
    _setting("networks.r18.checkpoint=~nobody-here/x", "~nobody-here/x", "checkpoint"),
    _setting("networks.r18.model.data_preprocessor=3", "networks.r18.model.data_preprocessor = 3"),
    _setting("networks.r18.model.init_cfg=3", "networks.r18.model", "init_cfg"),
    _setting(
        "networks.r18.model.bbox_head.anchor_generator.strides=[0,0,0,0,0]",
        "networks.r18.model.bbox_head.anchor_generator",
    ),
    _setting("custom_imports=[no_such_module]", "custom_imports", "no_such_module"),
    _setting("soft_labels={}", "soft_labels", "self"),
    _setting("no_equals_sign", "no_equals_sign"),
    _setting("networks.t.checkpoint=none.pth", "networks.t", config=LAD),
    _file("empty", "", "networks"),
    _file("syntax error", "networks = dict(\n", "SyntaxError"),
    _file("binary", bytes(range(256)), "mine.py"),
    _file("raises", "raise RuntimeError('boom')\n", "boom"),
    _file("leaves Python", "raise SystemExit(0)\n", "SystemExit"),
    _file("reads what is not there", "x = open('no_such_file').read()\n", "no_such_file"),
    _file("networks emptied", SOUND + "networks = dict(_delete_=True)\n", "networks"),
    _file("missing base", "_base_ = ['./gone.py']\n"),
    _file("base of itself", "_base_ = ['./mine.py']\n", "mine.py"),
    _file("network without a detector", SOUND + "networks = dict(b=dict())\n", "networks.b"),
    _file("networks as a list", SOUND + "networks = [1]\n", "networks"),
    _file("unknown section", SOUND + "trian = dict(batch_size=2)\n", "trian"),
    _file("train as a number", SOUND + "train = 3\n", "train"),
]
