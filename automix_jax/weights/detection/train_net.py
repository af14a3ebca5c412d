"""Trains a detector from the weights beside this file, and evaluates it; for Detectron2 0.6 on.

    python train_net.py --config-file voc_07_12.yaml --num-gpus 8 [--trials 5] [KEY VALUE ...]

All other flags are Detectron2's. The last line is the mean over the trials and, from two on, the
standard deviation. Each trial has its own random seed and its own folder under OUTPUT_DIR.
"""

import json
import pickle
import statistics
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, launch
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.layers import get_norm
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from detectron2.utils import comm


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """R50-C4's head with one more norm, after its last stage, which pretraining does not know."""

    @classmethod
    def _build_res5_block(cls, cfg):
        stage, channels = super()._build_res5_block(cfg)
        stage.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return stage, channels


class Trainer(DefaultTrainer):
    """Detectron2's, which starts from all of the weights or not at all, and keeps its results."""

    def resume_or_load(self, resume=True):
        """Loads; an array that has no place in the model is an error, not a warning as usual."""
        super().resume_or_load(resume)
        weights = self.cfg.MODEL.WEIGHTS
        if self.start_iter == 0 and weights.endswith(".detectron2.pkl"):
            state = self.model.state_dict()
            left = [name for name, array in arrays(weights) if not holds(state, name, array)]
            if left:
                raise ValueError(f"{weights}: the model did not take {', '.join(left)}")

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        """VOC's average precision (2007: over eleven points), or COCO's."""
        if MetadataCatalog.get(dataset_name).evaluator_type == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        return COCOEvaluator(dataset_name, output_dir=output_folder or cfg.OUTPUT_DIR)

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """Evaluates, and writes OUTPUT_DIR/results.json."""
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            Path(cfg.OUTPUT_DIR, "results.json").write_text(json.dumps(results))
        return results


def arrays(path):
    """Names and arrays of a file of weights."""
    return pickle.loads(Path(path).read_bytes(), encoding="latin1")["model"].items()


def holds(state, name, array):
    """Whether a model has this array under a name that ends like that."""
    found = [value.cpu() for key, value in state.items() if key.endswith(f".{name}")]
    return any(torch.equal(value, torch.from_numpy(array)) for value in found)


def settings(args, trial):
    """The configuration of one trial."""
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    # The weights lie beside the config file, wherever the command is typed.
    cfg.MODEL.WEIGHTS = str(Path(args.config_file).parent / cfg.MODEL.WEIGHTS)
    cfg.merge_from_list(args.opts)
    if args.trials > 1:
        cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR, f"trial{trial}"))
    return cfg


def run(args, trial):
    """Trains and evaluates once, in each of the processes."""
    cfg = settings(args, trial)
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        DetectionCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, args.resume)
        Trainer.test(cfg, model)
    else:
        trainer = Trainer(cfg)
        trainer.resume_or_load(args.resume)
        trainer.train()


def summary(results):
    """Mean and standard deviation of the trials' average precisions, in percent."""
    parts = []
    for name in ("AP50", "AP", "AP75"):
        values = [result["bbox"][name] for result in results]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        parts.append(f"{name} {statistics.fmean(values):.2f}{spread}")
    return f"{', '.join(parts)} ({len(results)} {'trials' if len(results) > 1 else 'trial'})"


if __name__ == "__main__":
    parser = default_argument_parser()
    parser.add_argument("--trials", type=int, default=1, help="how often to train, from 1")
    args = parser.parse_args()
    if args.trials < 1:
        parser.error("--trials must be at least 1")
    trials, machines = range(1, args.trials + 1), (args.num_machines, args.machine_rank)
    for trial in trials:
        launch(run, args.num_gpus, *machines, args.dist_url, (args, trial))
    if args.machine_rank == 0:
        files = [Path(settings(args, trial).OUTPUT_DIR, "results.json") for trial in trials]
        print(summary([json.loads(file.read_text()) for file in files]))
