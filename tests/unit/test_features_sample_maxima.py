"""What a feature does on a sample: its largest activation on a text token."""

import numpy as np
import torch

from vlmdiff.activations.format import ShardContent, ShardHeader
from vlmdiff.activations.tokens import IMAGE, TEXT
from vlmdiff.activations.writer import write_shard
from vlmdiff.dictionaries.files import save_dictionary
from vlmdiff.dictionaries.modules import TopKDictionary
from vlmdiff.features.sample_maxima import SampleMaxima, join_samples, sample_maxima


def test_activations_are_the_largest_on_text(tmp_path):
    """Two samples of two tokens: image then text; the larger value of the first stands on its image."""
    content = ShardContent(
        residual={1: np.array([[9, 0], [1, 0], [2, 3], [4, 1]], np.float16)},
        token_id=np.zeros(4, np.int32),
        position=np.array([1, 2, 1, 2], np.int32),
        token_type=np.array([IMAGE, TEXT, TEXT, TEXT], np.uint8),
        offsets=np.array([0, 2, 4], np.int64),
        sample_id=["a", "b"],
        group=["g", "g"],
    )
    write_shard(tmp_path / "s.h5", content, ShardHeader("m", "d", "f", "e", 0, 2, (1,), "float16"))
    dictionary = TopKDictionary(2, 2, k=2, subtract_decoder_bias=False)
    with torch.no_grad():
        dictionary.W_enc.copy_(torch.eye(2))
        dictionary.W_dec.copy_(torch.eye(2))
    save_dictionary(dictionary, tmp_path / "layer_1", {})
    found = sample_maxima([tmp_path / "s.h5"], tmp_path / "layer_1", 1)
    assert found.rows(["b", "a"]).toarray().tolist() == [[4, 3], [1, 0]]
    both = join_samples([found, SampleMaxima(found.values * 2, ["c", "d"])])
    assert both.rows(["d", "a"]).toarray().tolist() == [[8, 6], [1, 0]]
