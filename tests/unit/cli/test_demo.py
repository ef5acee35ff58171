import pytest

from p2pdist.cli import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--agents", "0"], "--agents is 0"),
        (["--agents", "65"], "take 1 to 64"),
        (["--image-size", "much"], "isn't a size"),
        (["--image-size", "1KiB"], "too small"),
        (["app:1"], "needs --origin"),
        (["--origin", "http://127.0.0.1:5000"], "at least one IMAGE"),
        (["--origin", "http://127.0.0.1:5000/v2/", "app:1"], "has a path"),
        (["--origin", "127.0.0.1:5000", "app:1"], "isn't an http or https URL"),
        (["--origin", "http://127.0.0.1:5000", "App:1"], "isn't a repository"),
    ],
)
def test_wrong_usage_is_told_before_anything_starts(arguments, said, capsys):
    assert main(["demo", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("p2pdist: error: ")
    assert said in complaint
