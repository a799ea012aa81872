"""The split of each region in the published benchmark, by NOAA active region number.

Regions overlap in time and sky, so a split is always by region, never by step or window.
"""

SPLITS = ("train", "validation", "test")

TEST_REGIONS = frozenset({11698, 11726, 13165, 13179, 13183})
TRAIN_REGIONS = frozenset(
    {
        *(11130, 11149, 11158, 11162, 11199, 11327, 11344, 11387, 11393, 11416, 11422, 11455, 11619, 11640, 11660),
        *(11678, 11682, 11765, 11768, 11776, 11916, 11928, 12036, 12051, 12085, 12089, 12144, 12175, 12203, 12257),
        *(12331, 12494, 12659, 12778, 12864, 12877, 12900, 12929, 13004, 13085, 13098),
    }
)


def published_split(ar_number: int) -> str:
    """Return the split of a region in the published benchmark (arXiv 2508.14107); unlisted regions are validation.

    >>> published_split(11726), published_split(11130), published_split(11190)
    ('test', 'train', 'validation')
    """
    if ar_number in TEST_REGIONS:
        return "test"
    return "train" if ar_number in TRAIN_REGIONS else "validation"
