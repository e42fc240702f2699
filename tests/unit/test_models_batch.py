"""What a batch says of its tokens, by hand: rows of unequal length, two BOS, images in the middle, none."""

import pytest
import torch

from vlmdiff.activations.tokens import BOS, IMAGE, PADDING, TEXT
from vlmdiff.models.batch import Seen, make_batch
from vlmdiff.models.positions import text_after_image

PAD, START, PICTURE = 0, 1, 9
ROWS = [[START, 5, PICTURE, PICTURE, 6, START, 7], [PICTURE, START, 8], [START, 4, 3, 2]]


@pytest.fixture
def batch():
    return make_batch(
        ROWS, PAD, START, PICTURE, Seen(torch.zeros(3, 4), torch.tensor([[1, 2], [1, 1]])), [2, 0, 1]
    )


def test_rows_are_padded_behind_and_masked(batch):
    assert batch.input_ids.tolist() == [ROWS[0], [*ROWS[1], 0, 0, 0, 0], [*ROWS[2], 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1] * 7, [1] * 3 + [0] * 4, [1] * 4 + [0] * 3]
    assert batch.last.tolist() == [6, 2, 3]
    assert batch.generated.tolist() == [2, 0, 1]


def test_only_the_first_bos_of_a_row_is_one(batch):
    assert batch.token_type.tolist() == [
        [BOS, TEXT, IMAGE, IMAGE, TEXT, TEXT, TEXT],
        [IMAGE, BOS, TEXT, PADDING, PADDING, PADDING, PADDING],
        [BOS, TEXT, TEXT, TEXT, PADDING, PADDING, PADDING],
    ]


def test_without_a_bos_the_first_token_is_the_sink_and_without_images_all_is_text():
    batch = make_batch([[5, 6], [7]], PAD, None)
    assert batch.token_type.tolist() == [[BOS, TEXT], [BOS, PADDING]]
    assert batch.seen is None and batch.generated.tolist() == [0, 0]


def test_text_after_the_image_follows_the_last_image_token(batch):
    assert text_after_image(batch).tolist() == [
        [False, False, False, False, True, True, True],
        [False, False, True, False, False, False, False],
        [False] * 7,
    ]
    two_pictures = make_batch([[START, PICTURE, 5, PICTURE, 6]], PAD, START, PICTURE)
    assert text_after_image(two_pictures).tolist() == [[False, False, False, False, True]]
