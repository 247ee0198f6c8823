"""Closed word classes of English, and what stands for what."""

from __future__ import annotations

__all__ = [
    "AUXILIARIES",
    "FUNCTION",
    "HOW",
    "NEGATIONS",
    "NUMBER_WORDS",
    "ORDER",
    "PASSIVE",
    "SCOPE",
    "SYMMETRIC",
    "SYNONYMS",
    "UNITS",
    "VOLATILE",
    "WH",
    "WHAT",
    "opposite",
    "stem",
]


def _groups(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().splitlines()]


def _first_of(text: str) -> dict[str, str]:
    return {word: group[0] for group in _groups(text) for word in group}


FUNCTION = frozenset(
    """um uh er so yeah hiya hello there team cheers advance quick one usually able using use used may
    a an the this that these those there here i me my mine myself we us our ours you your yours he him his she her hers
    it its they them their theirs one someone somebody anyone anybody is am are was were be been being do does did doing
    done have has had having will would shall should can could may might must to of in on at by for with from into onto
    as and or but if then than so such about also just very really too quite please hi hello hey thanks thank hi ok okay
    what who whom whose which when where why how i'm i've i'd i'll it's that's there's what's who's how's where's you're
    you've we're they're let's get got gets getting go going want wants wanted need needs like know tell way thing things
    some any up out over off down not no n't don't doesn't didn't can't cannot won't isn't aren't wasn't
    couldn't wouldn't shouldn't im ive dont cant""".split()
)
NEGATIONS = frozenset(
    """not no never none nobody nothing nowhere neither nor without cannot cant dont doesnt didnt wont isnt arent wasnt
    hardly unable fail fails failed refuse lack lacks except""".split()
)
NUMBER_WORDS = {
    word: str(value)
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty".split()
    )
    if word != "one"
} | {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80", "ninety": "90"}
NUMBER_WORDS |= {"hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000", "dozen": "12"}
NUMBER_WORDS |= {"twice": "2", "half": "0.5", "once": "1", "second": "2", "third": "3", "double": "2", "triple": "3"}
MONTHS = "january february march april june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
NUMBER_WORDS |= {word: word for word in [*MONTHS, *DAYS, "spring", "summer", "autumn", "winter"]}
UNITS = _first_of(
    """second seconds sec secs
    minute minutes min mins
    hour hours hr hrs
    day days
    week weeks
    month months
    year years yr yrs
    km kilometre kilometres kilometer kilometers kms
    mile miles
    m metre metres meter meters
    cm centimetre centimetres centimeter centimeters
    mm millimetre millimeter millimetres millimeters
    inch inches
    foot feet ft
    kg kilo kilos kilogram kilograms
    lb lbs pound-weight
    gram grams
    ounce ounces oz
    litre litres liter liters
    gallon gallons
    celsius
    fahrenheit
    mb megabyte megabytes
    gb gigabyte gigabytes
    tb terabyte terabytes
    $ dollar dollars usd
    € euro euros eur
    £ gbp quid
    ¥ yen jpy
    rupee rupees inr rs
    % percent percentage"""
)
SCOPE = _first_of(
    """all every each entire whole everyone everybody everything
    only just solely exclusively
    any
    some several few
    most majority
    best top finest greatest
    worst
    cheapest
    least minimum min minimal fewest lowest
    maximum max highest
    always
    sometimes occasionally
    first
    last final
    new newly
    free
    joint
    both
    except excluding
    including
    international abroad overseas foreign
    domestic
    online
    part-time
    full-time
    another other"""
)
ORDER = _first_of(
    """before prior until
    after since following
    during
    under below less fewer
    over above more
    inside within
    outside beyond
    from
    into"""
)
WH = {word: word for word in ("what", "who", "whose", "when", "where", "why", "how")}
WH |= {"which": "what", "whom": "who", "what's": "what", "whats": "what", "who's": "who", "where's": "where"}
WH |= {"when's": "when", "how's": "how", "why's": "why"}
HOW = {word: f"how {word}" for word in ("many", "long", "often", "far", "old", "big", "tall", "fast", "soon")}
HOW |= {"much": "how much", "come": "why"}
# "What is the way to" asks how, "what time" asks when.
WHAT = dict.fromkeys(("way", "ways", "process", "procedure", "steps", "step", "method", "path"), "how")
WHAT |= dict.fromkeys(("time", "month", "year", "day", "date", "deadline"), "when")
WHAT |= dict.fromkeys(("price", "cost", "fee", "salary"), "how much")
WHAT |= dict.fromkeys(("reason", "cause", "causes", "makes"), "why")
WHAT |= dict.fromkeys(("author", "writer", "person", "winner"), "who")
WHAT |= dict.fromkeys(("place", "city", "country"), "where") | {"number": "how many", "age": "how old"}
AUXILIARIES = frozenset(
    """is are am was were do does did can could will would should shall may must have has had isn't aren't don't doesn't
    didn't can't couldn't won't wouldn't shouldn't""".split()
)
_OPPOSITES = """on off;good bad;best worst;better worse;more less;most least;more fewer;increase decrease;increase reduce;raise lower
rise fall;up down;high low;higher lower;highest lowest;maximum minimum;max min;big small;large small;bigger smaller;long short
longer shorter;old new;old young;older younger;early late;earlier later;before after;first last;start stop;start end;start finish
begin end;begin finish;open close;opened closed;opening closing;enable disable;activate deactivate;lock unlock;locked unlocked
block unblock;freeze unfreeze;subscribe unsubscribe;install uninstall;connect disconnect;add remove;add delete;add drop;insert delete
create delete;create destroy;join leave;enter leave;enter exit;arrive leave;arrive depart;arrival departure;login logout
buy sell;buying selling;lend borrow;lending borrowing;give take;give receive;send receive;sent received;sender recipient
deposit withdraw;deposit withdrawal;pay receive;import export;upload download;push pull;win lose;won lost;gain lose;save spend
save delete;pass fail;passed failed;success failure;successful unsuccessful;accept reject;accept decline;accept refuse;accepted rejected
approve reject;approved declined;approved rejected;allow forbid;allow deny;allow prevent;allowed forbidden;agree disagree;permit forbid
legal illegal;possible impossible;able unable;true false;right wrong;right left;correct incorrect;valid invalid;safe dangerous;safe unsafe
healthy unhealthy;happy sad;happy unhappy;rich poor;strong weak;hot cold;warm cool;heat cool;light dark;light heavy;fast slow;quick slow
easy hard;easy difficult;simple complex;cheap expensive;full empty;inside outside;internal external;public private;male female;man woman
men women;boy girl;husband wife;father mother;son daughter;brother sister;love hate;like dislike;like hate;friend enemy;day night
morning evening;summer winter;north south;east west;import export;include exclude;including excluding;with without;always never
everyone nobody;everything nothing;all none;some none;improve damage;improve worsen;improve harm;build destroy;attack defend;attract repel
encourage discourage;gain loss;profit loss;asset liability;credit debit;debt asset;advantage disadvantage;advantages disadvantages;pros cons
benefit risk;benefits risks;benefits drawbacks;strengths weaknesses;positive negative;plus minus;above below;over under;front back;top bottom
wet dry;clean dirty;loud quiet;awake asleep;alive dead;birth death;born die;married divorced;marry divorce;single married;hire fire
employer employee;landlord tenant;teacher student;buyer seller;lender borrower;parent child;doctor patient;single joint;temporary permanent
full-time part-time;mandatory optional;required optional;compulsory optional;online offline;domestic international;local foreign;same different
similar different;optimist pessimist;optimistic pessimistic;active passive;active inactive;generous selfish;busy quiet;loud silent;weekday weekend;am pm;adult child;resident visitor;spicy mild;polite rude;patient impatient
brave cowardly;humble arrogant;modest arrogant;lazy hardworking;honest dishonest;hopeful hopeless;careful careless;specific vague;visible invisible
smart stupid;clever stupid;intelligent stupid;confident insecure;fat thin;thick thin;wide narrow;deep shallow;near far;present absent
introvert extrovert;introverted extroverted;liberal conservative;religious atheist;serious silly;mature childish;ascending descending
encrypt decrypt;encode decode;compress decompress;serialize deserialize;lossy lossless;synchronous asynchronous;sync async;read write
input output;client server;virtual physical;mobile desktop;gross net;entry exit;forward backward;forwards backwards;horizontal vertical
enrol withdraw;apply withdraw;apply cancel;book cancel;renew cancel;confirm cancel;appoint dismiss;claim waive;lock open;hide show;mute unmute
follow unfollow;archive unarchive;dead alive;gain weight-loss;upgrade downgrade;expand shrink;grow shrink;widen narrow;strengthen weaken
attend miss;remember forget;find lose;found lost;arrive miss;catch miss;keep cancel;stay leave;stay go;continue stop;pause resume;turn-on turn-off"""
_PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "non-", "mis", "de", "anti", "anti-", "self-")


def opposite(one: str, other: str) -> bool:
    """Tell whether two words are opposites, by list or by prefix."""
    if frozenset((stem(one), stem(other))) in _PAIRS:
        return True
    short, long = sorted((one, other), key=len)
    if len(short) > 3 and any(long == prefix + short for prefix in _PREFIXES):
        return True
    return len(short) > 4 and short.endswith("ful") and long == short[:-3] + "less"


SYNONYMS = _first_of(
    """buy purchase
    quick fast rapid
    big large huge
    start begin commence
    stop quit cease
    find locate
    help assist
    show display
    fix repair solve resolv
    delete remove eras
    change modify alter
    choose select pick
    job employ work career
    way method approach
    car automobile vehicle
    phone mobile cellphone smartphone
    picture image photo pic
    film movie
    kid child children
    money cash
    mean meaning
    learn study
    improve better enhanc
    make create build
    difference differ different
    happen occur
    reason cause
    earn make
    weight kg
    usa america us
    uk britain
    india indian
    good great best
    error mistake
    company firm business
    people person human
    cost price charge fee
    movie film
    shop store
    trip travel journey
    bank lender
    close shut
    card cards
    reset recover restor
    increase rais boost"""
)
PASSIVE = frozenset("is are was were be been being get gets got".split())
SYMMETRIC = frozenset(
    """married marry engaged dating related friends friend siblings cousins twins similar same equal equals different difference
    differ between together versus vs compare compared comparison combine mix mixed close""".split()
)
VOLATILE = frozenset(
    """today tonight now currently current latest newest recent recently yesterday tomorrow live breaking price prices stock
    stocks weather forecast temperature score scores exchange rate news trending""".split()
)

_ENDINGS = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("edly", ""), ("ed", ""), ("es", ""), ("ly", ""), ("s", ""))


def stem(word: str) -> str:
    """Cut the commonest endings; both sides of a comparison are cut alike, so it need not be a word."""
    word = word.removesuffix("'s").removesuffix("'")
    for ending, replacement in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith(("ss", "us")):
            word = word[: len(word) - len(ending)] + replacement
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


_PAIRS = frozenset(frozenset(map(stem, pair.split())) for pair in _OPPOSITES.replace("\n", ";").split(";"))
