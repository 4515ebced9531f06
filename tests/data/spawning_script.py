"""A user's script, all of it under the guard but what it launches: loaders with other processes.

Usage: spawning_script.py START_METHOD FOLDER PROCESSES READERS..., which are train, test and check.
It prints a line for what each loader gave.
"""

import sys


def read(options: list[str], readers: list[str]) -> None:
    from fastreid.config import get_cfg
    from fastreid.engine import DefaultTrainer

    cfg = get_cfg()
    cfg.merge_from_list(options)
    if "train" in readers:
        train = next(iter(DefaultTrainer.build_train_loader(cfg)))
        print("train", len(train["images"]))
    if "test" in readers:
        loader, queries = DefaultTrainer.build_test_loader(cfg, cfg.DATASETS.TESTS[0])
        print("test", queries, sum(len(batch["images"]) for batch in loader))


if __name__ == "__main__":
    import multiprocessing
    from pathlib import Path

    multiprocessing.set_start_method(sys.argv[1])

    import metabin_plugin

    metabin_plugin.register()

    from fastreid.engine import launch

    from metabin_plugin.data.check.images import read_pictures
    from tests.engine.tiny_data import tiny_options

    folder, processes, readers = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    options = [*tiny_options(folder), "DATALOADER.NUM_WORKERS", "1", "MODEL.DEVICE", "cpu"]
    launch(read, processes, args=(options, readers))
    if "check" in readers:
        pictures, _ = read_pictures(map(str, folder.glob("target/*.png")), workers=1)
        print("check", len(pictures))
