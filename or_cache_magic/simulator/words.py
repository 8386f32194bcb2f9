"""The few words that the simulator knows."""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


GOOD: Final = _words(
    """
    amazing awesome beautiful best brilliant charming clean comfortable delicious delighted
    delightful easy enjoy enjoyed exceeded excellent fantastic fast flawless fresh friendly fun glad
    good gorgeous great happy helpful impressed incredible intuitive kind like liked love loved
    lovely loves perfect perfectly pleasant pleased quick quiet recommend recommended reliable
    remarkable satisfied smooth solid splendid stunning sturdy super superb thank thanks thrilled
    top warm well wonderful worth wow
    """
)
BAD: Final = _words(
    """
    angry annoyed annoying avoid awful bad bland boring broke broken cheap cold complain confusing
    cracked crash crashed crashes cumbersome damaged dead defective died dirty disappointed
    disappointing disappointment disgusting dreadful failed fails faulty flimsy frustrating hate
    hated hates horrible hurt impossible late leak leaked lost mediocre mess missing never noisy
    overpriced pain poor poorly refund return returned rude sad scam scratched slow smelly stopped
    stuck terrible tiny ugly unacceptable unreliable unusable useless waste wasted weak worse worst
    wrong
    """
)
SPAM: Final = _words(
    """
    bonus buy cash claim click congratulations discount exclusive free gift guaranteed investment
    limited link loan lottery million offer prize selected subscribe unsubscribe urgent viagra win
    winner won
    """
)
NEGATIONS: Final = _words(
    """
    aren't can't didn't doesn't don't hardly isn't never no not wasn't won't wouldn't
    """
)
COMMON: Final = _words(
    """
    classify extract main name things tell title difference differences hello text following
    uses ways way reason reasons idea ideas example examples step steps tip tips fact facts benefits
    helpful helps three four five six seven eight ten
    a about after again all also an and answer any are as at be because been between brief briefly
    bullet bullets but by called can could describe did do does each every explain few for from get
    give go had has have how i if in into is it its just know like made make many may me more
    most much must my no not now of on one only or other our out over please reply say sentence
    sentences short should show simple so some something such tell than that the their them then
    there these they this those three to too two up us use using very was way we were what when
    where which while who why will with word words would write you your
    """
)
CAPITALS: Final = dict(
    pair.split(":")
    for pair in _words(
        """
    france:Paris germany:Berlin italy:Rome spain:Madrid portugal:Lisbon england:London japan:Tokyo
    china:Beijing india:Delhi canada:Ottawa australia:Canberra brazil:Brasília egypt:Cairo
    kenya:Nairobi norway:Oslo sweden:Stockholm finland:Helsinki denmark:Copenhagen poland:Warsaw
    austria:Vienna greece:Athens
    """
    )
)
NUMBERS: Final = {
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "ten": 10,
}
RELATED: Final = {
    "billing": _words(
        "bill billed card charge charged cost invoice money paid pay payment price refund twice"
    ),
    "bug": _words("broken bug crash crashes error fail fails freezes hangs wrong"),
    "feature": _words("add could feature like please support wish would"),
    "shipping": _words("arrive arrived courier deliver delivered delivery late parcel ship shipped shipping"),
    "account": _words("account email locked login password reset sign username"),
    "urgent": _words("asap down immediately now outage urgent"),
}
"""Words that go with a label."""
