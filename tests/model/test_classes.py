from model.classes import CLASSES, IGNORE_INDEX, PALETTE


def test_the_colormap_is_vocs():
    assert len(CLASSES) == 21
    expected = {
        "background": (0, 0, 0),
        "aeroplane": (128, 0, 0),
        "bicycle": (0, 128, 0),
        "bird": (128, 128, 0),
        "person": (192, 128, 128),
        "pottedplant": (0, 64, 0),
        "tvmonitor": (0, 64, 128),
    }
    for name, colour in expected.items():
        assert tuple(PALETTE[CLASSES.index(name)]) == colour
    assert tuple(PALETTE[IGNORE_INDEX]) == (224, 224, 192)


def test_the_colours_of_all_indices_differ():
    assert len({tuple(colour) for colour in PALETTE}) == 256
