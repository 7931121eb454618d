"""The rules on texts, for sensitive messages, which the database may not see.

The twin of `private.judge_text` (supabase/migrations/20261122000980_create_moderation_rules.sql), function by function
and under the same names. Rules, known words, regular expressions and folded letters come from
`public.get_moderation_rules`, so only the steps are written twice; a differential test holds them together.

Source: RE2 with `longest_match` finds what a POSIX matcher such as Postgres' finds, in time linear in the text.
"""

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import re2

_ACTIONS = ("allow", "warn", "mask", "hold", "reject")
_MASK = "•••"
_GAPS = re.compile("[\n -/:-`{-~€£¥•¤]+")
_WORD = re.compile("[^\n -/:-`{-~€£¥•¤]+")
_CHUNK = re.compile("[^ \n]+")
_LEET = "0123456789@$€£¥|!+("
_LEET_PLAIN = str.maketrans("023456789@$€£¥+(", "ozeasgtbgaselytc")
_LEET_BOTH = (str.maketrans(_LEET, "oizeasgtbgaselyiitc"), str.maketrans(_LEET, "olzeasgtbgaselylltc"))
_WITHOUT_LEET = str.maketrans("", "", _LEET)
_EDGES = "\"'.,;:?!()[]{}<>-_~*/\\^`&=#%•¤+|"
_STAR_EDGES = "\"'.,;:?!()[]{}<>-_~/"
_LIMITS = ("2147483647", "2147483648", "4294967295", "4294967296")
_ASCENDING, _DESCENDING = "01234567890123456789", "98765432109876543210"

Spans = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict. Shape: `rules` as [{id, name, version, kind, action}], strongest first; see private.judgement."""

    action: str
    label: str | None
    explanation: str | None
    rules: list[dict[str, Any]]
    masked_body: str | None


@dataclass(frozen=True, slots=True)
class Rule:
    """One enabled rule on texts; terms, pattern and domains are folded already."""

    id: str
    name: str
    version: int
    kind: str
    action: str
    label: str
    explanation: str
    terms: list[tuple[str, bool]]
    pattern: Any
    domains: list[str]
    mode: str | None

    @property
    def named(self) -> dict[str, Any]:
        return {"id": self.id, "name": self.name, "version": self.version, "kind": self.kind, "action": self.action}


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.longest_match = True
    options.dot_nl = True
    options.log_errors = False
    return re2.compile(pattern, options)


@dataclass
class Rules:
    """The rules of one revision, ready to judge by."""

    revision: int
    rules: list[Rule]
    words: dict[str, list[str]]
    patterns: dict[str, str]
    letters: dict[int, str]
    by_word: dict[str, list[tuple[str, Rule]]] = field(default_factory=lambda: defaultdict(list))
    by_collapsed: dict[str, list[tuple[str, Rule]]] = field(default_factory=lambda: defaultdict(list))
    anywhere: list[tuple[str, Rule]] = field(default_factory=list)
    _cache: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, told: dict[str, Any]) -> "Rules":
        """Shape: the answer of `public.get_moderation_rules`."""
        words: dict[str, list[str]] = defaultdict(list)
        for kind, those in told["words"].items():
            for word in those:
                words[word].append(kind)
        rules = cls(
            revision=told["revision"],
            rules=[
                Rule(
                    id=rule["id"],
                    name=rule["name"],
                    version=rule["version"],
                    kind=rule["kind"],
                    action=rule["action"],
                    label=rule["label"],
                    explanation=rule["explanation"],
                    terms=[(term["term"], term["isAnywhere"]) for term in rule["terms"]],
                    pattern=_compiled(rule["pattern"]) if rule["pattern"] else None,
                    domains=rule["domains"],
                    mode=rule["settings"].get("mode"),
                )
                for rule in told["rules"]
            ],
            words=dict(words),
            patterns=told["lexicon"],
            letters={ord(letter): fold for fold, letters in told["letters"].items() for letter in letters},
        )
        for rule in rules.rules:
            for term, is_anywhere in rule.terms:
                rules.by_word[term.split(" ", 1)[0]].append((term, rule))
                rules.by_collapsed[_collapse(term)].append((term, rule))
                if is_anywhere:
                    rules.anywhere.append((term.replace(" ", ""), rule))
        return rules

    def __getitem__(self, name: str) -> Any:
        """An expression of the lexicon, compiled at its first use."""
        if name not in self._cache:
            self._cache[name] = _compiled(self.patterns[name])
        return self._cache[name]

    def is_a(self, word: str, kind: str) -> bool:
        return kind in self.words.get(word, ())


def judge(text: str, rules: Rules, contact_allowed: bool) -> Judgement:
    """The verdict of all rules on a normalised text. See private.judge_text."""
    folded = fold(text, rules)
    caught, hints = _scan(folded, rules, None)
    caught += [rule for rule in rules.rules if rule.pattern is not None and rule.pattern.search(folded)]
    found: Spans = []
    if not contact_allowed and any(rule.kind == "contact" for rule in rules.rules):
        found = _contacts(folded, hints, rules)
        if found:
            caught += [rule for rule in rules.rules if rule.kind == "contact"]
    hosts: list[tuple[str, bool, tuple[int, int]]] = []
    links = [rule for rule in rules.rules if rule.kind == "link"]
    if links and rules["hosts_hint"].search(folded):
        hosts = _hosts(folded, rules)
        caught += [rule for rule in links if any(_host_matches(rule, hosts))]
    if not caught:
        return Judgement("allow", None, None, [], None)

    those = {rule.id: rule for rule in caught}
    ordered = sorted(those.values(), key=lambda rule: (-_ACTIONS.index(rule.action), rule.name))
    spans: Spans = []
    for rule in ordered:
        if rule.action != "mask":
            continue
        if rule.kind == "contact":
            part = found
        elif rule.kind == "pattern":
            part = _spans(folded, rule.pattern)
        else:
            part = _word_spans(folded, rule, rules, hosts)
        spans += part or [(0, len(folded))]
    strongest = ordered[0]
    return Judgement(
        strongest.action,
        strongest.label,
        strongest.explanation,
        [rule.named for rule in ordered],
        mask(text, spans, rules) if spans else None,
    )


def has_link(text: str, rules: Rules) -> bool:
    """Whether a normalised text has a web address, written out or not."""
    folded = fold(text, rules)
    return bool(rules["hosts_hint"].search(folded)) and any(is_link for _, is_link, _ in _hosts(folded, rules))


def text_digest(text: str, rules: Rules) -> int | None:
    """64 bits of the SHA-256 of the folded letters, signed as in SQL; None below twelve letters."""
    letters = re.sub("[\n -@[-`{-~€£¥•¤]+", "", fold(text, rules))
    if len(letters) < 12:
        return None
    return int.from_bytes(hashlib.sha256(letters.encode()).digest()[:8], "big", signed=True)


def fold(text: str, rules: Rules) -> str:
    """The form that rules look at. See private.moderation_fold."""
    text = re.sub("([A-Z])l([A-Z])", r"\1i\2", text)
    folded = text if text.isascii() else text.translate(rules.letters)
    return re.sub("[A-Z]+", lambda capitals: capitals[0].lower(), folded).replace("\t", " ")


# ----- terms -----


def _collapse(text: str) -> str:
    return re.sub(r"([a-z])\1+", r"\1", text)


def _leet(word: str) -> list[str]:
    signs = len(word.translate(_WITHOUT_LEET))
    digits = sum(char in "0123456789" for char in word)
    if signs in (0, len(word)) or digits > signs + (len(word) >= 5):
        return []
    if not any(char in "1|!" for char in word):
        return [word.translate(_LEET_PLAIN)]
    return [word.translate(table) for table in _LEET_BOTH]


def _forms(folded: str, rules: Rules) -> tuple[list[str], str]:
    """What disguised words may be, and the text in plain words. See private.moderation_forms."""
    text = folded
    if "'" in text:
        text = rules["contraction"].sub("\\1", text)
        text = rules["elision"].sub("\\1", text)
    gaps = re.compile(rules.patterns["gaps"])
    forms: list[str] = []
    spoken: list[str] = []
    before, before_is_short = "", False
    for token in gaps.split(text):
        if not token:
            continue
        if len(token) > 1:
            if token.endswith("+"):
                forms += _leet(token.lstrip("(+"))
            token = token.lstrip("(+").rstrip("!+(|")
            if re.fullmatch("[b-df-hj-np-tv-z]+", token):
                forms.append(token.replace("v", "u"))
        leet = _leet(token) if token.translate(_WITHOUT_LEET) != token else []
        forms += leet
        spoken.append(leet[0] if leet else token)
        is_short = len(token) <= 2 and rules.is_a(token, "short")
        if (is_short or before_is_short) and before and 4 <= len(before) + len(token) <= 40:
            forms += [before + token, *_leet(before + token)]
        before, before_is_short = token, is_short

    wide = re.compile(" {2,}|\n")
    run = ""
    for segment in [text, *wide.split(text)] if wide.search(text) else [text]:
        for token in [*gaps.split(segment), ".."]:
            if not token:
                continue
            if len(token) == 1:
                run += token
                continue
            if 3 <= len(run) <= 200 and run.translate(_WITHOUT_LEET):
                without = rules["small_words_after"].sub("", run, count=1)
                for joined in (
                    run,
                    rules["small_words_before"].sub("", run, count=1),
                    without,
                    rules["small_words_before"].sub("", without, count=1),
                ):
                    forms += [joined, *_leet(joined)]
            run = ""

    for chunk in re.split("[ \n]+", text):
        token = chunk.strip(_EDGES)
        if len(token) > 100 or not re.search("[!-/:-`{-~•¤]", token):
            continue
        joined = gaps.sub("", token)
        plain = re.sub("[!+(|]", "", joined)
        if joined == token and plain == joined:
            continue
        parts = rules["one_stop"].search(token)
        if (
            parts
            and len(parts[1]) > 1
            and len(parts[2]) > 1
            and (joined.isascii() or (len(parts[1]) > 2 and len(parts[2]) > 2))
            and not rules.is_a(parts[1], "short")
            and not rules.is_a(parts[2], "short")
        ):
            continue
        forms += [joined, *_leet(joined), plain]

    if re.search("[ء-ي가-힣]", folded):
        for token in gaps.split(text):
            forms += [
                rules["arabic_beginning"].sub("", token, count=1),
                rules["korean_ending"].sub("", token, count=1),
            ]
    return forms, " ".join(spoken)


def _scan(folded: str, rules: Rules, only: Rule | None) -> tuple[list[Rule], list[str]]:
    """The rules of which a term is in the text, and the kinds of its known words. See private.moderation_scan."""
    words = _GAPS.split(folded)
    hints = [kind for word in words for kind in rules.words.get(word, ())]
    caught: list[Rule] = []

    def look_up(those: list[str], sentence: str) -> None:
        for word in those:
            for term, rule in rules.by_word.get(word, ()):
                if (only is None or rule is only) and (" " not in term or f" {term} " in sentence):
                    caught.append(rule)

    look_up(words, f" {' '.join(words)} ")
    is_disguised = (
        not folded.isascii() or bool(rules["broken"].search(folded)) or "short" in hints or hints.count("single") >= 3
    )
    known = set(words)
    if is_disguised:
        forms, spoken = _forms(folded, rules)
        spoken = f" {spoken} "
        forms += spoken.split(" ")
        look_up(forms, spoken)
        known.update(forms)

    for word in known:
        collapsed = _collapse(word)
        if len(collapsed) + 2 <= len(word) <= 400:
            for term, rule in rules.by_collapsed.get(collapsed, ()):
                if (
                    (only is None or rule is only)
                    and " " not in term
                    and len(term) >= 3
                    and re2.fullmatch("".join(f"{letter}+" for letter in term), word)
                ):
                    caught.append(rule)
    if not is_disguised:
        return caught, hints

    if any(star in folded for star in "*#%@"):
        for chunk in re.split("[ \n]+", folded):
            token = chunk.strip(_STAR_EDGES)
            likeness = re.sub("[*#%@]", "_", token)
            letters = len(likeness) - likeness.count("_")
            if rules["starred"].search(token) and len(likeness) >= 4 and 2 * letters >= len(likeness):
                like = re.compile(likeness.replace("_", "."), re.DOTALL)
                for rule in rules.rules:
                    if (only is None or rule is only) and any(
                        " " not in term and like.fullmatch(term) for term, _ in rule.terms
                    ):
                        caught.append(rule)

    if not folded.isascii():
        solid = "".join(words)
        caught += [rule for term, rule in rules.anywhere if (only is None or rule is only) and term in solid]
        if re.search("[ぁ-힣ก-๿]", folded) and rules["messenger_anywhere"].search(folded):
            hints.append("messenger")
        if rules["cjk_number"].search(folded):
            hints.append("cjk_number")
    return caught, hints


# ----- spans -----


def _spans(folded: str, pattern: Any) -> Spans:
    return [match.span() for match in pattern.finditer(folded) if match.end() > match.start()]


def _word_spans(folded: str, rule: Rule, rules: Rules, hosts: list[tuple[str, bool, tuple[int, int]]]) -> Spans:
    words = _spans(folded, _CHUNK)
    if rule.kind == "term":
        return [(start, end) for start, end in words if _scan(folded[start:end], rules, rule)[0]]
    meant = [span for (_, _, span), is_meant in zip(hosts, _host_matches(rule, hosts), strict=True) if is_meant]
    return [word for word in words if any(start < word[1] and end > word[0] for start, end in meant)]


def mask(text: str, spans: Spans, rules: Rules) -> str:
    """The text with ••• for each span of its folded form. See private.moderation_mask."""
    merged: list[list[int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        elif start < end:
            merged.append([start, end])
    masked: list[str] = []
    place, span, last, inside = 0, 0, -1, False
    for letter in text:
        size = len(rules.letters.get(ord(letter), letter))
        if size:
            while span < len(merged) and merged[span][1] <= place:
                span += 1
            inside = span < len(merged) and merged[span][0] < place + size
        if not inside:
            masked.append(letter)
        elif last < span:
            masked.append(_MASK)
            last = span
        place += size
    return "".join(masked)


# ----- links -----


def _punycode(host: str, rules: Rules) -> str:
    """A host name with its xn-- labels as folded letters. See private.moderation_punycode."""
    labels = host.split(".")
    for index, label in enumerate(labels):
        if re.fullmatch("xn--[a-z0-9-]{1,59}", label):
            decoded = _decoded(label[4:])
            if decoded is None:
                return host
            labels[index] = fold(decoded, rules)
    return ".".join(labels)


def _decoded(label: str) -> str | None:
    """RFC 3492, with the limits of its SQL twin; None for what is not punycode."""
    head, dash, tail = label.rpartition("-")
    output = [ord(char) for char in head] if dash else []
    code, index, bias, at = 128, 0, 72, 0
    while at < len(tail):
        old, weight, steps = index, 1, 36
        while True:
            digit = "abcdefghijklmnopqrstuvwxyz0123456789".find(tail[at : at + 1]) if at < len(tail) else -1
            at += 1
            if digit < 0 or weight > 100_000_000 or index > 100_000_000:
                return None
            index += digit * weight
            threshold = min(max(steps - bias, 1), 26)
            if digit < threshold:
                break
            weight *= 36 - threshold
            steps += 36
        delta = index // 700 if old == 0 else (index - old) // 2
        delta += delta // (len(output) + 1)
        steps = 0
        while delta > 455:
            delta //= 35
            steps += 36
        bias = steps + 36 * delta // (delta + 38)
        code += index // (len(output) + 1)
        index %= len(output) + 1
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            return None
        output.insert(index, code)
        index += 1
    return "".join(map(chr, output))


def _hosts(folded: str, rules: Rules) -> list[tuple[str, bool, tuple[int, int]]]:
    """Host names, whether each is meant as a link, and where. See private.moderation_hosts."""
    found: list[tuple[str, bool, tuple[int, int]]] = []
    last, had_scheme = 0, False
    for start, end in _spans(folded, rules["host"]):
        hit, gap, following = folded[start:end], folded[last:start], folded[end : end + 2]
        last = end
        host = rules["dot"].sub(".", hit).strip("-_")
        had_scheme = bool(rules["scheme_before"].search(gap)) or (had_scheme and bool(re.fullmatch("[^/\n ]*@", gap)))
        is_link = not following.startswith("@") and (
            had_scheme
            or host.startswith("www.")
            or (
                not gap.endswith(("@", "@ "))
                and not rules["no_host"].search(host)
                and (
                    (bool(rules["bare_host"].search(host)) and not (host.endswith(".net") and not hit.endswith(".net")))
                    or (bool(re.match("[/?][a-z0-9@+]", following)) and bool(rules["path_host"].search(host)))
                )
            )
        )
        found.append((_punycode(host.removeprefix("www."), rules), is_link, (start, end)))
    if not any(is_link for _, is_link, _ in found):
        found += [("", True, span) for span in _spans(folded, rules["scheme"])]
    return found


def _host_matches(rule: Rule, hosts: list[tuple[str, bool, tuple[int, int]]]) -> list[bool]:
    named = [any(f".{host}".endswith(f".{domain}") for domain in rule.domains) for host, _, _ in hosts]
    if rule.mode == "deny":
        return named
    return [is_link and not is_named for (_, is_link, _), is_named in zip(hosts, named, strict=True)]


# ----- contact details -----


def _contacts(folded: str, hints: list[str], rules: Rules) -> Spans:
    """Where contact details are. See private.moderation_contacts."""
    spans: Spans = []
    if "@" in folded:
        spans += _spans(folded, rules["email"])
    if (
        ("provider" in hints and ("at" in hints or " com" in folded or "@" in folded))
        or ("dot" in hints and ("at" in hints or "@" in folded))
        or rules["loose_at"].search(folded)
    ):
        for start, end in _spans(folded, rules["loose_email"]):
            local = rules["local"].search(folded[start:end])
            if re.match("[a-z0-9]", folded[end : end + 1]):
                continue
            if local and local.start() == 0 and rules.is_a(local[0], "no_local"):
                continue
            spans.append((start, end))
    if sum(letter in "0123456789" for letter in folded) >= 6:
        for start, end in _spans(folded, rules["number"]):
            if re.match("[a-z]", folded[end : end + 1]) and folded[end - 1] in "ol":
                end = start + len(folded[start:end].rstrip("ol ().-/_*~"))
            dates = rules["dates_before"].search(folded[start:end])
            if dates:
                start += dates.end()
            dates = rules["dates_after"].search(folded[start:end])
            if dates:
                end -= dates.end() - dates.start()
            if _is_phone(folded[start:end], folded[max(0, start - 50) : start], folded[end : end + 20], rules):
                spans.append((start, end))
    if hints.count("digit") >= 3:
        spans += _spoken_numbers(folded, rules)
    if "cjk_number" in hints:
        spans += [
            (start, end)
            for start, end in _spans(folded, rules["cjk_number"])
            if not rules["counting"].search(folded[start:end])
        ]
    if "messenger" in hints or "/" in folded or "skype:" in folded:
        spans += _handles(folded, "messenger" in hints, rules)
    return spans


def _is_phone(run: str, before: str, after: str, rules: Rules) -> bool:
    """Whether a run of digits is a telephone number. See private.moderation_is_phone."""
    number = run.replace("o", "0").replace("l", "1").replace("i", "1")
    digits = re.sub("[^0-9]+", "", number)
    groups = re.sub("[^0-9]+", " ", number).strip(" ")
    count = len(digits)
    is_sequence = digits in _ASCENDING or digits in _DESCENDING
    if (
        not 7 <= count <= 15
        or sum(letter in "oli" for letter in run) > count // 2
        or re.match("[a-z0-9]|[.,:][0-9]", after)
        or re.search(r"[0-9][.,:]\Z", before)
        or (
            re.search(r"[a-z0-9]-?\Z", before)
            and not re.search(r"(?:tel|phone|fon|call|mobile|whatsapp|nr|no|number|cell)-?\Z", before)
        )
        or (is_sequence and (count != 10 or groups.count(" ") > 1))
        or not digits.strip(digits[0])
    ):
        return False
    if re.match("[(]?[+]", run):
        return count >= 8
    unit = re.match(" ?([^\n -/:-`{-~€£¥•¤]+)", after)
    if (
        re.match(" ?[€£¥¤$%]", after)
        or rules["money_before"].search(before)
        or rules["no_phone"].search(number)
        or (unit and rules.is_a(unit[1], "unit"))
        or (
            rules["identified_anywhere"].search(before)
            and not re.search(r"(?:phone|tel|cell|mobile|number|no|nr)[.: ]?#[ :.]*\Z", before)
        )
    ):
        return False
    line = re.split("[\n•]", before)[-1]
    words = _GAPS.split(line)
    is_called = False
    for index in range(len(words) - 1, max(0, len(words) - 8) - 1, -1):
        if not words[index]:
            continue
        kinds = rules.words.get(words[index], ())
        if "call" in kinds:
            is_called = True
            break
        if "identifier" in kinds:
            return False
        if "between" not in kinds:
            is_called = any(rules.is_a(word, "call") for word in words[max(0, index - 5) : index + 1])
            break
    is_called = (
        is_called
        or bool(rules["call_anywhere"].search(line))
        or (
            count >= 10
            and not digits.endswith("00000")
            and any(rules.is_a(word, "call") for word in _GAPS.split(after)[:3])
        )
    )
    if rules["thousands"].search(number) and not is_called:
        return False
    is_alone = not re.search("[a-z0-9]", before) and not re.search("[a-z0-9]", after)
    if is_called or is_sequence:
        return is_called or (is_alone and digits[0] in "06789")
    return (
        (bool(rules["national"].search(groups)) and 9 <= count <= (15 if groups.startswith("00") else 12))
        or (
            bool(rules["shaped"].search(groups))
            and (groups != digits or bool(re.match("[78]9|1[3-9]", digits)))
            and count >= 9
        )
        or (
            is_alone
            and bool(rules["alone"].search(digits))
            and bool(re.search("[0-9]{3}|^[0-9](?: [0-9])+$", groups))
            and digits not in _LIMITS
        )
    )


def _spoken_numbers(folded: str, rules: Rules) -> Spans:
    """Where digits are spelled as words. See private.moderation_spoken_numbers."""
    spans: Spans = []
    words = digits = start = finish = 0
    for token_start, token_finish in [*_spans(folded, _WORD), (len(folded) + 9, len(folded) + 9)]:
        token = folded[token_start:token_finish]
        is_word = rules.is_a(token, "digit")
        is_number = bool(re.fullmatch("[0-9]{1,8}", token))
        if not (is_word or is_number) or (words + digits and token_start - finish > 3):
            if words >= 3 and 7 <= words + digits <= 16 and not rules["counting"].search(folded[start:finish]):
                spans.append((start, finish))
            words = digits = 0
        if is_word or is_number:
            if not words + digits:
                start = token_start
            words += is_word
            digits += 0 if is_word else len(token)
            finish = token_finish
    return spans


def _handles(folded: str, has_messenger: bool, rules: Rules) -> Spans:
    """Where somebody on a messenger is named. See private.moderation_handles."""
    kinds = ["named_handle", "odd_named_handle", "asked_handle", "handle_on", "invited"] if has_messenger else []
    kinds += ["at_handle"] if has_messenger and "@" in folded else []
    kinds += ["discord_tag"] if has_messenger and "#" in folded else []
    kinds += ["invitation"] if "/" in folded or "?" in folded else []
    spans: Spans = []
    for kind in kinds:
        for start, end in _spans(folded, rules[kind]):
            hit, after = folded[start:end], folded[end : end + 20]
            if kind == "invitation":
                is_inside = re.match("[a-z0-9.@-]", folded[max(0, start - 1) : start])
                if not is_inside and not rules["no_invitation"].search(hit):
                    spans.append((start, end))
                continue
            if kind == "handle_on" or (kind == "at_handle" and hit.startswith("@")):
                match = re.match("@?[a-z0-9._-]+", hit)
                name = match[0].rstrip("._-") if match else hit
            else:
                hit = hit.rstrip(" \n.,;:!?)\"'/-_")
                tail = {"discord_tag": "[a-z0-9._]+ ?# ?[0-9]+$", "invited": "[^ ]+$"}.get(kind, "@? ?[a-z0-9._-]+$")
                match = re.search(tail, hit)
                name = match[0] if match else hit
                start += len(hit) - len(name)
            if kind != "invited" and rules.is_a(name.lstrip("@ "), "plain"):
                continue
            if (
                kind == "named_handle"
                and rules["sentence_goes_on"].search(after)
                and not rules["sentence_may_go_on"].search(after)
            ):
                continue
            if kind in ("odd_named_handle", "handle_on") and (len(name) < 5 or rules["tech_word"].search(name)):
                continue
            if kind == "handle_on" and re.match("[a-z0-9._-]", folded[max(0, start - 1) : start]):
                continue
            spans.append((start, start + len(name)))
    return spans
