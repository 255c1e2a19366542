"""Check digits of identifiers. Each function takes the identifier without separators, as ASCII text."""

_VERHOEFF_PERMUTATION = "1576283094"
_NIR_LETTERS = {"A": "19", "B": "18"}  # of the Corsican departments 2A and 2B
_DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
_CODICE_ODD = dict(
    zip(
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21) * 2 + (2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: payment cards."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def mod_97(code: str) -> bool:
    """ISO 13616: letters and digits of an IBAN."""
    return int("".join(str(int(letter, 36)) for letter in code[4:] + code[:4])) % 97 == 1


def _dihedral(first: int, second: int) -> int:
    """The product of the group of ten that Verhoeff's method computes in."""
    if first < 5:
        return (first + second) % 5 + 5 * (second >= 5)
    return (first - second) % 5 + 5 * (second < 5)


def verhoeff(digits: str) -> bool:
    """Verhoeff (1969): India's Aadhaar."""
    check = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        for _ in range(place % 8):
            digit = int(_VERHOEFF_PERMUTATION[digit])
        check = _dihedral(check, digit)
    return check == 0


def steuer_id(digits: str) -> bool:
    """Germany's tax number, § 139b AO: ISO 7064 mod 11,10; one of the first ten digits comes two or three times."""
    first = digits[:10]
    counts = sorted((first.count(digit) for digit in set(first)), reverse=True)
    if digits[0] == "0" or counts[0] not in (2, 3) or counts[1:2] != [1] or any(3 * d in first for d in "0123456789"):
        return False
    product = 10
    for digit in map(int, first):
        product = 2 * ((digit + product) % 10 or 10) % 11
    return (11 - product) % 10 == int(digits[10])


def nir(code: str) -> bool:
    """France's social security number with its key."""
    number = code[:5] + code[5:7].replace("2A", _NIR_LETTERS["A"]).replace("2B", _NIR_LETTERS["B"]) + code[7:13]
    return number.isdigit() and 97 - int(number) % 97 == int(code[13:])


def codice_fiscale(code: str) -> bool:
    """Italy's tax code, D.M. 23/12/1976: letters of odd and even places are worth different values."""
    code = code.upper()
    total = sum(_CODICE_ODD[letter] for letter in code[0:15:2])
    total += sum(int(letter, 36) if letter.isdigit() else ord(letter) - ord("A") for letter in code[1:15:2])
    return chr(ord("A") + total % 26) == code[15]


def nif_portugal(digits: str) -> bool:
    """Weights 9 to 2, modulo 11."""
    remainder = sum(int(digit) * weight for digit, weight in zip(digits, range(9, 1, -1), strict=False)) % 11
    return int(digits[8]) == (0 if remainder < 2 else 11 - remainder)


def cpf(digits: str) -> bool:
    """Brazil's taxpayer number: two digits modulo 11."""
    if len(set(digits)) == 1:
        return False
    for size in (9, 10):
        total = sum(int(digit) * weight for digit, weight in zip(digits, range(size + 1, 1, -1), strict=False))
        if total * 10 % 11 % 10 != int(digits[size]):
            return False
    return True


def dni(code: str) -> bool:
    """Spain's DNI (eight digits) and NIE (X, Y or Z and seven) with the letter at the end."""
    number = code[:-1].upper().translate(str.maketrans("XYZ", "012"))
    return _DNI_LETTERS[int(number) % 23] == code[-1].upper()


def thai_id(digits: str) -> bool:
    """Weights 13 to 2, modulo 11."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, range(13, 1, -1), strict=False))
    return (11 - total % 11) % 10 == int(digits[12])
