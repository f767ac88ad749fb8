"""Audit a dataset: `python -m sports_lightning.audit data.root=IMAGES`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_audit


def audit(cfg: DictConfig, folder: Path) -> None:
    """Find duplicates, leaks, labels that may be wrong, and damaged or unusual files, and write them into `folder`."""
    check_audit(cfg)
    from sports_lightning.audit.findings import collect_findings, print_findings, write_findings
    from sports_lightning.audit.predictions import read_log_probabilities
    from sports_lightning.audit.relabelling import write_label_check
    from sports_lightning.audit.scan import scan_dataset
    from sports_lightning.audit.suspects import check_labels, class_names
    from sports_lightning.data.formats import limit_pixels
    from sports_lightning.data.source import list_dataset
    from sports_lightning.storage.disk_cache import resolve_cache_dir

    limit_pixels(cfg.data.max_pixels)
    table, cache_dir = list_dataset(cfg.data), resolve_cache_dir(cfg.data)
    network, features, feature_neighbours, probabilities = None, None, None, None
    if "model" in cfg:  # first, so that an error in it is reported before the images are read
        with quick_imports():
            from sports_lightning.audit.feature_neighbours import (
                compute_scan_features,
                find_feature_neighbours,
                verify_neighbours,
            )
            from sports_lightning.models.classifier import build_classifier

        network = build_classifier(cfg.model, ["its head", "is not used"], table.root)
        cache_dir.mkdir(parents=True, exist_ok=True)  # the features are cached there
    scan = scan_dataset(table, cache_dir, cfg.data.value_range)
    if cfg.predictions:
        probabilities = read_log_probabilities(Path(cfg.predictions).expanduser(), scan, class_names(scan))
    if network:
        network.set_value_range(scan.value_range)
        features = compute_scan_features(scan, network, cfg.inference, cache_dir)
        scan, feature_neighbours = verify_neighbours(scan, find_feature_neighbours(scan, features))
    check = check_labels(scan, table.groups, features, probabilities)
    found = collect_findings(scan, feature_neighbours, check)
    write_label_check(scan, check, folder)
    write_findings(scan, found, folder)
    print_findings(found)


COMMAND = Command("audit", audit)

if __name__ == "__main__":
    sys.exit(main(COMMAND))
