"""Files that are there whole or not at all, and what a killed process leaves of them."""

from dist_oaa.runtime.files import remove_leftovers


def test_only_what_has_a_temporary_name_is_removed(tmp_path):
    kept = ["latest.json", "a.tmp", ".hidden", "store/manifest.json", "store/shard-0000/data.mdb"]
    left = [".metrics.jsonl.77.tmp", "checkpoints/.latest.json.77.tmp", "store/.images.tsv.7.tmp"]
    left += ["pictures/maps/.epoch-0002.npz.7.tmp"]
    left += ["store-ema/shard-0001/.data.mdb.tmp", "checkpoints/.step-00000004-g000002.tmp/a.json"]
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == set(kept)
    remove_leftovers(tmp_path / "absent")
