"""An engine process of `tests.app.faulty`, for SEG_ENGINES."""

from tests.app.faulty import open_faulty_predictor


def main():
    from app import loading
    from app.process import engine

    loading.open_predictor = open_faulty_predictor
    engine.main()


if __name__ == "__main__":
    main()
