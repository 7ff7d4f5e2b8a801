#!/usr/bin/python3
"""tidy: rules of the house that a program can hold, each as one test.

    tidy.py [NAME...]       runs all checks, or those named; prints TAP

A check is a function that yields complaints ("file:line: what is wrong"), or skips where its subject is not there. Some
texts are looked for that must be nowhere in the tree; they are put together here, so that this file does not hold them.
"""

import ast
import collections
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CHECKS = []

TOP_LEVEL = set('meson.build meson_options.txt src units seccomp scripts polkit tests packaging README.md ARCHITECTURE.md '
                'CONTRIBUTING.md NEWS.md LICENSE'.split())

# A layer may use those before it, but for what it must not know of; the two programs at the end stand alone.
LAYERS = 'base reactor proto store policy auth adapter worker telemetry sched api daemon'.split()
DOES_NOT_KNOW = {
    'proto': {'reactor'},
    'store': {'proto'}, 'policy': {'proto', 'reactor'}, 'auth': {'proto'}, 'adapter': {'proto', 'reactor'},
    'worker': {'proto'}, 'sched': {'proto'}, 'telemetry': {'proto'},
}
MAY_USE = {layer: set(LAYERS[:i + 1]) - DOES_NOT_KNOW.get(layer, set()) for i, layer in enumerate(LAYERS)}
MAY_USE['launcher'] = {'base', 'launcher'}
MAY_USE['ctl'] = {'base', 'proto', 'ctl'}

# A system header, and the only files that may include it.
OWNERS = {
    r'liburing(\.h|/.*)': r'src/reactor/ring\.[ch]',
    r'(sqlcipher/)?sqlite3(ext)?\.h': r'src/store/.*',
    r'yaml\.h': r'src/base/yaml\.c',
    r'cmocka\.h': r'(src/.*/(test|bench)-.*|tests/.*)\.[ch]',
    r'systemd/sd-bus\.h': r'src/(reactor|auth)/.*',
}

BANNED = {
    'strtol strtoul strtoll strtoull atoi atol atoll atof': 'use parse_u64()',
    'sprintf vsprintf': 'use snprintf() or buf_printf()',
    'strcpy stpcpy strcat strncpy strncat': 'use buf_append_str(), memcpy() with a known length, or snprintf()',
    'gets': 'it has no bound',
    'system popen': 'no shell',
    'alloca': 'the stack is no place for sizes of others',
    'strtok': 'it keeps a hidden state',
    'tmpnam tempnam mktemp': 'the name can be taken by another',
    'sleep usleep': 'the reactor never sleeps, and a test waits for what it waits for',
}

PROGRAMS = {'daemon': 'agent-routerd.8', 'launcher': 'agent-router-launcher.8', 'ctl': 'agent-routerctl.1'}


class Skip(Exception):
    pass


def check(function):
    CHECKS.append(function)
    return function


# --- the tree ---------------------------------------------------------------------------------------------------------

def list_files():
    """Paths relative to the root: what git knows or would add, else all but build directories."""
    try:
        out = subprocess.run(['git', '-c', 'safe.directory=*', '-C', str(ROOT), 'ls-files', '-coz', '--exclude-standard'],
                             capture_output=True, text=True, check=True).stdout
        names = [name for name in out.split('\0') if name]
    except (OSError, subprocess.CalledProcessError):
        names = []
    if not names:
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob('*') if p.is_file()]
        skipped = re.compile(r'(^|/)(\.git|node_modules|__pycache__)/|^build')
        names = [name for name in names if not skipped.search(name)]
    return sorted(name for name in set(names) if (ROOT / name).is_file())


FILES = list_files()
_texts = {}


def text(name):
    """A file's text; empty where it is not UTF-8."""
    if name not in _texts:
        data = (ROOT / name).read_bytes()
        try:
            _texts[name] = data.decode() if b'\0' not in data else ''
        except UnicodeDecodeError:
            _texts[name] = ''
    return _texts[name]


def files(pattern):
    """The files whose whole name matches, but for the fuzzers' inputs."""
    return [name for name in FILES if re.fullmatch(pattern, name) and '/corpus/' not in name]


def need(pattern, what):
    found = files(pattern)
    if not found:
        raise Skip(f'{what} is not there yet')
    return found


def numbered(name):
    return enumerate(text(name).split('\n'), 1)


def blank(source, strings):
    """C text with comments (and string and character literals) blanked, lines kept."""
    def repl(match):
        token = match.group(0)
        if token[0] == '/' or strings:
            return re.sub(r'[^\n]', ' ', token)
        return token
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', repl, source, flags=re.S)


def includes(name):
    for i, line in enumerate(blank(text(name), False).split('\n'), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)[>"]', line)
        if match:
            yield i, match.group(1), match.group(2)


COLUMNS = 120
C_FILES = r'(src|tests)/.*\.[ch]'
STRING = r'"(?:\\.|[^"\\\n])*"'


# --- layers -----------------------------------------------------------------------------------------------------------

@check
def layers_include_upwards_only():
    for name in need(r'src/[^/]+/.*\.[ch]', 'src'):
        layer = name.split('/')[1]
        if layer not in MAY_USE:
            yield f'{name}: "{layer}" is not a layer'
            continue
        for line, quote, target in includes(name):
            used = target.split('/')[0]
            if quote == '"' and '/' not in target:
                if not (ROOT / name).with_name(target).exists():
                    yield f'{name}:{line}: "{target}" is named without its layer'
            elif used in MAY_USE and used not in MAY_USE[layer]:
                yield f'{name}:{line}: {layer} may not use {used} ("{target}")'


@check
def system_headers_have_one_owner():
    for name in need(C_FILES, 'src'):
        for line, _, target in includes(name):
            for header, owner in OWNERS.items():
                if re.fullmatch(header, target) and (ROOT / 'src' / target).exists() is False \
                        and not re.fullmatch(owner, name):
                    yield f'{name}:{line}: only {owner} may include {target}'


@check
def only_conn_has_a_stream_and_a_codec():
    need(r'src/api/conn\.c', 'src/api/conn.c')
    for name in files(r'src/.*\.[ch]'):
        targets = {target for _, _, target in includes(name)}
        if {'reactor/stream.h', 'proto/http1.h'} <= targets and name != 'src/api/conn.c' and '/test-' not in name:
            yield f'{name}: only src/api/conn.c may hold both a stream and a codec'


@check
def architecture_names_every_layer():
    need(r'ARCHITECTURE\.md', 'ARCHITECTURE.md')
    listed = re.findall(r'^\| `([a-z]+)` \|', text('ARCHITECTURE.md'), re.M)
    there = {name.split('/')[1] for name in files(r'src/[^/]+/.*\.[ch]')}
    for layer in sorted(there - set(listed)):
        yield f'ARCHITECTURE.md: the table of layers lacks {layer}'
    order = [layer for layer in listed if layer in LAYERS]
    if order != [layer for layer in LAYERS if layer in order]:
        yield f'ARCHITECTURE.md: the layers are in another order: {" ".join(order)}'


# --- C ----------------------------------------------------------------------------------------------------------------

@check
def no_banned_calls():
    reasons = {name: reason for names, reason in BANNED.items() for name in names.split()}
    pattern = re.compile(r'(?<![\w.>])(' + '|'.join(reasons) + r')\s*\(')
    for name in need(C_FILES, 'src'):
        for i, line in enumerate(blank(text(name), True).split('\n'), 1):
            for match in pattern.finditer(line):
                yield f'{name}:{i}: {match.group(1)}(): {reasons[match.group(1)]}'


@check
def c_layout():
    for name in need(C_FILES, 'src'):
        for i, line in numbered(name):
            if '\t' in line:
                yield f'{name}:{i}: tab'
            if line != line.rstrip():
                yield f'{name}:{i}: blanks at the end'
            # A string may be easier to read whole than in two.
            if len(line) > COLUMNS + 40 or len(re.sub(STRING, '""', line)) > COLUMNS:
                yield f'{name}:{i}: {len(line)} columns'
        if not text(name).endswith('\n') or text(name).endswith('\n\n'):
            yield f'{name}: must end with one newline'


@check
def headers_begin_with_what_they_are():
    for name in need(r'(src|tests)/.*\.h', 'src'):
        if not re.match(r'#pragma once\n\n/\*', text(name)):
            yield f'{name}: must begin with "#pragma once", an empty line and a comment that says what it is'


@check
def sources_are_built():
    for name in need(r'src/[^/]+/[^/]+\.c', 'src'):
        path = pathlib.PurePath(name)
        build = str(path.parent / 'meson.build')
        if build not in FILES:
            yield f'{build} is missing'
            continue
        names = {path.name, path.stem, path.stem.removeprefix('test-')}
        if not names & set(re.findall(r"'([^']+)'", re.sub(r'#.*', '', text(build)))):
            yield f'{name}: {build} does not name it'


# --- contracts --------------------------------------------------------------------------------------------------------

def message_ids():
    need(r'src/base/log\.h', 'src/base/log.h')
    return re.findall(r'^#define (LOG_ID_\w+)\s+"([0-9a-f]{32})"', text('src/base/log.h'), re.M)


@check
def message_ids_are_in_the_catalog():
    need(r'units/agent-router\.catalog', 'units/agent-router.catalog')
    catalog = re.findall(r'^-- ([0-9a-f]{32})$', text('units/agent-router.catalog'), re.M)
    ids = message_ids()
    for name, value in ids:
        if value not in catalog:
            yield f'src/base/log.h: {name} has no entry in units/agent-router.catalog'
    for value, n in collections.Counter(value for _, value in ids).items():
        if n > 1:
            yield f'src/base/log.h: {value} is given {n} times'
    for value, n in collections.Counter(catalog).items():
        if value not in {value for _, value in ids} or n > 1:
            yield f'units/agent-router.catalog: {value} is unknown to src/base/log.h, or there twice'


@check
def message_ids_are_used():
    need(r'src/daemon/.*\.c', 'src/daemon')
    used = set()
    for name in files(r'src/.*\.c'):
        if '/test-' not in name:
            used |= set(re.findall(r'\bLOG_ID_\w+', blank(text(name), True)))
    for name, _ in message_ids():
        if name not in used:
            yield f'src/base/log.h: {name} is logged nowhere'


@check
def routes_are_in_the_openapi_document():
    need(r'src/api/route\.c', 'src/api/route.c')
    need(r'src/api/openapi\.json', 'src/api/openapi.json')
    routes = set(re.findall(r'\{\s*(?:HTTP|API)_([A-Z]+),\s*"([^"]+)"', blank(text('src/api/route.c'), False)))
    methods = {'get', 'put', 'post', 'delete', 'options', 'head', 'patch', 'trace'}
    document = {(method.upper(), path) for path, item in json.loads(text('src/api/openapi.json'))['paths'].items()
                for method in item if method in methods}
    if not routes:
        yield 'src/api/route.c: no line of the form { API_GET, "/path"'
    for method, path in sorted(routes - document):
        yield f'src/api/openapi.json: {method} {path} is missing'
    for method, path in sorted(document - routes):
        yield f'src/api/openapi.json: {method} {path} is not in the route table'


@check
def options_are_in_the_man_pages():
    checked = 0
    for layer, page in PROGRAMS.items():
        options = {}
        for name in files(rf'src/{layer}/[^/]+\.c'):
            for option in re.findall(r'\{\s*"([a-z0-9-]+)",\s*(?:no|required|optional)_argument\b', blank(text(name), False)):
                options.setdefault(option, name)
        if not options or f'packaging/man/{page}' not in FILES:
            continue
        checked += 1
        written = text(f'packaging/man/{page}').replace('\\-', '-')
        for option, name in sorted(options.items()):
            if not re.search(rf'--{option}(?![\w-])', written):
                yield f'{name}: --{option} is not in packaging/man/{page}'
    if not checked:
        raise Skip('no program with a table of long options and a man page is there yet')


@check
def environment_variables_are_documented():
    need(r'README\.md', 'README.md')
    written = ''.join(text(name) for name in files(r'README\.md|packaging/man/.*')).replace('\\', '')
    for name in files(r'src/.*\.c'):
        if '/test-' in name:
            continue
        for variable in re.findall(r'getenv\("(AGENT_ROUTER_\w+)"\)', blank(text(name), False)):
            if variable not in written:
                yield f'{name}: {variable} is neither in README.md nor in a man page'


# --- the tree as a whole ----------------------------------------------------------------------------------------------

@check
def top_level_is_fixed():
    for name in sorted({name.split('/')[0] for name in FILES}):
        if name not in TOP_LEVEL and not name.startswith('.'):
            yield f'{name}: not one of the files and directories of the top level'


@check
def no_path_of_a_workplace():
    needles = '|'.join([r'(?<![\w.})-])/wo' + r'rk/', r'/tmp/' + r'wt\b', r'/tmp/' + r'land\.sh', r'/home/[a-z]+/' + r'src/'])
    yield from search(needles, 'a path of somebody\'s workplace')


@check
def no_mirror_or_registry():
    hosts = ['deb.debian', 'security.debian', 'snapshot.debian', 'ftp.debian', 'archive.debian', 'registry.npmjs',
             'registry.yarnpkg', 'archive.ubuntu', 'proxy.golang', 'files.pythonhosted', 'pypi', 'static.crates']
    yield from search('|'.join(re.escape(host) + r'\.(org|com|io)\b' for host in hosts), 'the host of a mirror or registry')


@check
def nothing_is_left_to_do():
    yield from search(r'\b(TO' + r'DO|FIX' + r'ME|XX' + r'X)\b', 'unfinished')


def search(pattern, what):
    for name in files(r'.*'):
        for i, line in numbered(name):
            match = re.search(pattern, line)
            if match:
                yield f'{name}:{i}: {what}: {match.group(0)}'


@check
def lock_files_have_no_addresses():
    def addresses(node, at):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            if key == 'resolved' and isinstance(value, str) and '://' in value:
                yield f'{at}: "resolved"'
            yield from addresses(value, f'{at}/{key}')
    for name in need(r'(.*/)?(package-lock|npm-shrinkwrap)\.json', 'a lock file'):
        yield from (f'{name}: {complaint}' for complaint in addresses(json.loads(text(name)), ''))


@check
def json_files_parse():
    def unique(pairs):
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError('a name occurs twice')
        return dict(pairs)
    for name in need(r'.*\.json', 'a JSON file'):
        try:
            json.loads(text(name), object_pairs_hook=unique)
        except ValueError as e:
            yield f'{name}: {e}'


@check
def yaml_files_parse():
    try:
        import yaml
    except ImportError:
        raise Skip('PyYAML is not installed')
    for name in need(r'.*\.ya?ml', 'a YAML file'):
        try:
            list(yaml.safe_load_all(text(name)))
        except yaml.YAMLError as e:
            yield f'{name}: {" ".join(str(e).split())}'


@check
def scripts_parse():
    for name in need(r'(?!.*\.[ch]$).*', 'a script'):
        first = text(name).split('\n', 1)[0]
        if name.endswith('.py') or re.match(r'#!.*\bpython3', first):
            try:
                ast.parse(text(name), name)
            except SyntaxError as e:
                yield f'{name}:{e.lineno}: {e.msg}'
        elif re.match(r'#!.*\b(ba|da)?sh\b', first):
            shell = 'bash' if 'bash' in first else 'sh'
            run = subprocess.run([shell, '-n', str(ROOT / name)], capture_output=True, text=True)
            if run.returncode:
                yield run.stderr.strip().replace(str(ROOT) + '/', '')


@check
def text_ends_with_a_newline():
    for name in files(r'.*\.(md|py|sh|ya?ml|json|mjs|build|txt|in|service|socket|slice|conf|1|5|8)'):
        if text(name) and not text(name).endswith('\n'):
            yield f'{name}: no newline at the end'
        for i, line in numbered(name):
            if line != line.rstrip(' \t') and not name.endswith('.md'):
                yield f'{name}:{i}: blanks at the end'


def main():
    chosen = [c for c in CHECKS if not sys.argv[1:] or c.__name__ in sys.argv[1:]]
    n_failed = 0
    print(f'1..{len(chosen)}')
    for i, function in enumerate(chosen, 1):
        title = function.__name__.replace('_', ' ')
        complaints, skipped = [], None
        try:
            complaints = list(function())
        except Skip as e:
            skipped = str(e)
        if skipped:
            print(f'ok {i} - {title} # SKIP {skipped}')
        elif complaints:
            n_failed += 1
            print(f'not ok {i} - {title}')
            for complaint in complaints:
                print(f'# {complaint}')
        else:
            print(f'ok {i} - {title}')
    return 1 if n_failed else 0


if __name__ == '__main__':
    sys.exit(main())
