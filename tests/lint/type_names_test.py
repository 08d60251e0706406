#!/usr/bin/env python3
"""Two files may not give one name to two types of one namespace: the linker takes functions of one for those of the other
(std::vector<Link>::push_back with another sizeof), and no compiler sees it. Looks at the text of the product's files; types inside
of types, functions and unnamed namespaces are free."""
import collections
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
TEXT = re.compile(r'"(\\.|[^"\\\n])*"|\'(\\.|[^\'\\\n])\'')
TOKEN = re.compile(
    r"\bnamespace\s+([\w:]*)\s*\{"
    r"|\b(?:struct|class|union)\s+(?:alignas\([^)]*\)\s*)?(\w+)(?:\s+final)?\s*(?::(?!:)[^;{}()]*)?\{"
    r"|[{}]")


def types_of(text):
    """Qualified names of the types that a file defines at the level of named namespaces."""
    text = TEXT.sub('""', COMMENT.sub("", text))
    scopes = []  # names of namespaces; None for anything else
    for token in TOKEN.finditer(text):
        if token.group(0) == "}":
            if scopes:
                scopes.pop()
        elif token.group(2):
            if all(scopes):
                yield "::".join(scopes + [token.group(2)])
            scopes.append(None)
        else:
            scopes.append(token.group(1))  # an unnamed namespace and a brace are both false


def twice(files):
    places = collections.defaultdict(set)
    for name, text in files.items():
        for type_name in types_of(text):
            places[type_name].add(name)
    return {type_name: sorted(names) for type_name, names in places.items() if len(names) > 1}


class TypeNames(unittest.TestCase):
    def test_product(self):
        listed = subprocess.run(["git", "ls-files", "app", "elastic", "io", "model", "parallel"], cwd=ROOT, check=True,
                                capture_output=True, text=True).stdout.split()
        files = {name: (ROOT / name).read_text() for name in listed
                 if name.endswith((".h", ".cpp", ".cu")) and (ROOT / name).exists()}
        self.assertGreater(len(files), 300)
        self.assertEqual(twice(files), {})

    def test_finds(self):
        self.assertEqual(twice({"a.h": "namespace n::m { struct Link { int a; }; }", "b.h": "namespace n::m { enum class Link : int { a }; }"}),
                         {"n::m::Link": ["a.h", "b.h"]})
        self.assertEqual(twice({"a.h": "namespace n { class Link final : public Base { int a[2] = {}; }; }",
                                "b.h": "namespace n { void f() { if (1) {} } union Link { }; }"}), {"n::Link": ["a.h", "b.h"]})

    def test_leaves_alone(self):
        for other in ("namespace n { struct Link; }", "namespace m { struct Link {}; }", "namespace n { namespace { struct Link {}; } }",
                      "namespace n { struct Other { struct Link {}; }; }", "namespace n { struct Link::State {}; }",
                      "namespace n { Link make() { struct Link {}; } }", "namespace n { /* struct Link {} */ }", 'namespace n { f("struct Link {"); }'):
            self.assertEqual(twice({"a.h": "namespace n { struct Link {}; }", "b.h": other}), {}, other)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
