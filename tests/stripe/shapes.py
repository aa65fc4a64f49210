"""Holds objects of the fake to the types of Stripe's library for Python: python shapes.py OBJECTS

OBJECTS is a file with a JSON list. Every field must be one that the type has, of the type that it has there, and no field
that is always there may be missing. Words must be among those that the library lists.
"""

import ast
import importlib
import inspect
import json
import sys
import typing
from decimal import Decimal

import stripe
from stripe._object_classes import OBJECT_CLASSES

problems: set[str] = set()
namespaces: dict[str, dict] = {}


def namespace(module: str) -> dict:
    """What a module's annotations refer to: it imports these only for type checkers, and so does this."""
    if module not in namespaces:
        source = importlib.import_module(module)
        names = namespaces[module] = dict(vars(source))
        for node in ast.walk(ast.parse(inspect.getsource(source))):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    names[alias.asname or alias.name] = getattr(importlib.import_module(node.module), alias.name)
    return namespaces[module]


def hints(kind: type) -> dict:
    """The fields of a class and their types. Classes within classes are found from the outside in."""
    names = dict(namespace(kind.__module__))
    outer = importlib.import_module(kind.__module__)
    for part in kind.__qualname__.split("."):
        outer = getattr(outer, part)
        names.update(vars(outer))
    own = {name: eval(text, names) if isinstance(text, str) else text for name, text in vars(kind)["__annotations__"].items()}
    return {name: hint for name, hint in own.items() if not name.startswith("_") and name != "OBJECT_NAME"}


def resolved(hint, kind: type):
    """Names within a type, such as List["Item"], as the types that they stand for."""
    if isinstance(hint, typing.ForwardRef):
        names = {**namespace(kind.__module__), **vars(kind)}
        return eval(hint.__forward_arg__, names)
    return hint


def fits(value, hint, kind: type, path: str) -> list[str]:
    """What is wrong with a value; nothing if it fits."""
    hint = resolved(hint, kind)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union:
        # `str` beside a list of words is for words to come; today's are in the list.
        if any(typing.get_origin(resolved(one, kind)) is typing.Literal for one in arguments):
            arguments = tuple(one for one in arguments if one is not str)
        found = [fits(value, one, kind, path) for one in arguments]
        return [] if [] in found else min(found, key=len)
    if origin is typing.Literal:
        return [] if value in arguments else [f"{path}: {value!r} is not one of {arguments}"]
    if origin is list:
        if not isinstance(value, list):
            return [f"{path}: not a list"]
        return [one for element in value for one in fits(element, arguments[0], kind, f"{path}[]")]
    if inspect.isclass(origin) and issubclass(origin, stripe.ListObject):
        return [one for element in value["data"] for one in fits(element, arguments[0], kind, f"{path}.data[]")]
    if origin is not None and issubclass(origin, stripe.StripeObject):
        return [] if isinstance(value, dict) else [f"{path}: not a hash"]
    if hint in (typing.Any, dict) or origin is dict:
        return []
    if inspect.isclass(hint) and issubclass(hint, stripe.StripeObject):
        return of_class(value, hint, path) if isinstance(value, dict) else [f"{path}: not a {hint.__name__}"]
    if hint is Decimal:
        return [] if isinstance(value, str) and str(Decimal(value)) == value else [f"{path}: not a decimal"]
    wanted = (int, float) if hint is float else hint
    right = isinstance(value, wanted) and (isinstance(value, bool) == (hint is bool))
    return [] if right else [f"{path}: {value!r} is no {hint}"]


def of_class(value: dict, kind: type, path: str) -> list[str]:
    if kind.__name__ == "UntypedStripeObject" or not vars(kind).get("__annotations__"):
        return []
    fields, found = hints(kind), []
    for name, content in value.items():
        if name not in fields:
            found.append(f"{path}.{name}: no such field")
        elif not (kind is stripe.Event.Data and name in ("object", "previous_attributes")):
            found += fits(content, fields[name], kind, f"{path}.{name}")
    for name, hint in fields.items():
        optional = typing.get_origin(hint) is typing.Union and type(None) in typing.get_args(hint)
        if name not in value and not optional and not value.get("deleted"):
            found.append(f"{path}.{name}: missing")
    return found


def check(value: dict) -> None:
    module, name = OBJECT_CLASSES[value["object"]]
    kind = getattr(importlib.import_module(module), name)
    problems.update(of_class(value, kind, value["object"]))
    if value["object"] == "event":
        check(value["data"]["object"])


objects = json.load(open(sys.argv[1]))
for value in objects:
    check(value)
known = set(typing.get_args(typing.get_args(hints(stripe.Subscription)["status"])[0]))
made = {value["status"] for value in objects if value["object"] == "subscription"}
if known != made:
    problems.add(f"statuses of subscriptions: the library has {sorted(known)}, the fake made {sorted(made)}")
if problems:
    sys.exit("\n".join(sorted(problems)))
print(f"ok: {len(objects)} objects of {len({value['object'] for value in objects})} kinds")
