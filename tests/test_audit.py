"The audit on media that look and sound like media: the built-in actors."
import shutil
import pandas as pd
import pytest
from deepfake_nb.data.audit import audit
from deepfake_nb.data.manifest import load_manifest, split_identities


@pytest.fixture(scope="module")
def split(actors): return split_identities(load_manifest(actors / "manifest.csv"), (0.5, 0, 0.5))


def test_actors_are_clean_and_fakes_resemble_their_source(split):
    found = audit(split, quiet=True)
    assert found.leaks == []
    assert set(found.pairs.level) == {"expected"} and {"picture", "sound"} <= set(found.pairs.how)


def test_a_renamed_copy_on_the_other_side_is_a_leak(split, tmp_path):
    train = split[(split.split == "train") & (split.label == 0)].iloc[0]
    copy = shutil.copy(train.path, tmp_path / "stranger.mp4")
    row = split.iloc[[0]].assign(clip_id="stranger", path=str(copy), label=0, manipulation="real", identity="stranger", donor="", source="", split="test")
    leaks = audit(pd.concat([split, row], ignore_index=True), quiet=True).leaks
    assert any(f"{train.clip_id} is the same file as stranger" in text for text in leaks)
