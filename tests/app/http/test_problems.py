from app import errors
from app.errors import RequestError
from app.http.problems import PROBLEMS, create_response


def subclasses(error):
    for subclass in error.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def test_every_error_has_its_problem():
    assert set(subclasses(RequestError)) == set(PROBLEMS)


def test_the_tree_at_the_top_of_the_errors_is_the_tree():
    listed = [line.split()[0] for line in errors.__doc__.splitlines() if line.startswith("      ")]
    assert sorted(listed) == sorted(error.__name__ for error in subclasses(RequestError))


def test_seconds_to_wait_and_the_challenge_become_header_fields():
    response = create_response(errors.Overloaded("full", remedy="wait", retry_after_s=7))
    assert response.headers["Retry-After"] == "7"
    response = create_response(errors.UnknownKey("unknown", remedy="ask"))
    assert response.headers["WWW-Authenticate"].endswith('error="invalid_token"')
    response = create_response(errors.Unauthorized("none", remedy="send one"))
    assert "error" not in response.headers["WWW-Authenticate"]
