"""Fifty schemas of the kinds that people bind answers to, with a text that is valid for each."""

S, I, N, B = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}


def record(required=None, **properties):
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required,
            "additionalProperties": False}


def schemas():
    word = {"type": "string", "maxLength": 12}
    level = {"enum": ["low", "medium", "high"]}
    age = {"type": "integer", "minimum": 0, "maximum": 120}
    share = {"type": "number", "minimum": 0, "maximum": 1}
    date = {"type": "string", "format": "date"}
    cases = []

    def add(schema, value):
        cases.append((schema, value))

    add(record(name=word, age=age), {"name": "Ada", "age": 36})
    add(record(city={"enum": ["Paris", "Oslo", "Rome"]}, days={"type": "integer", "minimum": 1, "maximum": 14}),
        {"city": "Oslo", "days": 3})
    add({"enum": ["red", "green", "blue"]}, "green")
    add({"const": "exactly this"}, "exactly this")
    add({"type": "array", "items": B, "minItems": 2, "maxItems": 3}, [True, False])
    add({"anyOf": [{"type": "null"}, {"const": 7}]}, 7)
    add(record(label=level, confidence=share), {"label": "high", "confidence": 0.9})
    add(record(title=word, tags={"type": "array", "items": level, "maxItems": 3}), {"title": "x", "tags": ["low"]})
    add(record(from_=date, to=date), {"from_": "2024-02-29", "to": "2025-01-01"})
    add(record(id={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}$"}, ok=B), {"id": "AB-0123", "ok": True})
    for depth in range(1, 6):
        schema, value = record(v=age), {"v": depth}
        for _ in range(depth):
            schema, value = record(inner=schema, kind=level), {"inner": value, "kind": "low"}
        add(schema, value)
    # References, not recursive: how deep an answer goes without a bound is the model's choice, not the grammar's.
    tree = {"$defs": {"leaf": record(v=age), "node": record(v=age, kids={"type": "array", "items": {"$ref": "#/$defs/leaf"},
                                                                      "maxItems": 2})}, "$ref": "#/$defs/node"}
    add(tree, {"v": 1, "kids": [{"v": 2}]})
    for optional in range(1, 6):
        names = {f"field_{i}": level for i in range(optional + 1)}
        add(record(required=["field_0"], **names), {"field_0": "low"})
    for low, high in ((1, 6), (-50, 50), (1000, 9999), (0, 1), (18, 99)):
        add(record(value={"type": "integer", "minimum": low, "maximum": high}), {"value": low})
    for formatted, text in (("date-time", "2024-05-06T07:08:09Z"), ("time", "07:08:09Z"), ("ipv4", "10.0.0.1"),
                            ("uuid", "123e4567-e89b-12d3-a456-426614174000"), ("email", "a.b@example.com")):
        add(record(value={"type": "string", "format": formatted}), {"value": text})
    for pattern, text in (("^[a-z]{3,8}$", "abcd"), ("^\\d{3}-\\d{4}$", "555-1234"), ("^(yes|no|maybe)$", "maybe"),
                          ("^#[0-9a-f]{6}$", "#00ff7f"), ("^v[0-9]\\.[0-9]{1,2}$", "v1.20")):
        add(record(value={"type": "string", "pattern": pattern}), {"value": text})
    add({"oneOf": [record(kind={"const": "circle"}, radius=share), record(kind={"const": "square"}, side=share)]},
        {"kind": "square", "side": 0.5})
    add({"allOf": [{"properties": {"a": age}, "required": ["a"]}, {"properties": {"b": level}, "required": ["b"]}]},
        {"a": 3, "b": "low"})
    add({"type": "array", "prefixItems": [level, age, B], "items": False, "minItems": 3}, ["low", 4, False])
    add({"type": "object", "patternProperties": {"^k[0-9]$": age}, "additionalProperties": False, "maxProperties": 2},
        {"k1": 5})
    add(record(price={"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 99}, unit={"enum": ["kg", "m"]}),
        {"price": 9.5, "unit": "kg"})
    for count in range(1, 6):
        schema = {"type": "array", "items": record(name=level, score=age), "minItems": count, "maxItems": count}
        add(schema, [{"name": "high", "score": i} for i in range(count)])
    add(record(text={"type": "string", "minLength": 3, "maxLength": 40}), {"text": "a short one"})
    add(record(flag=B, reason={"anyOf": [word, {"type": "null"}]}), {"flag": False, "reason": None})
    assert len(cases) >= 47, len(cases)
    while len(cases) < 50:
        n = len(cases)
        add(record(**{f"answer_{n}": level, "step": {"type": "integer", "minimum": 0, "maximum": n}}),
            {f"answer_{n}": "low", "step": 1})
    return cases[:50]
