# shellcheck shell=bash
# What scripts/deps, scripts/test and scripts/quickstart share: progress lines, quiet steps, where things are.
# Sourced; needs bash. Nothing here prints on success but the progress lines.

AR_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where npm packages are kept. Root's own home is closed to the user that tasks run as, so root's is elsewhere.
if [ "$(id -u)" -eq 0 ]; then
        AR_CACHE=${AR_CACHE:-/var/cache/agent-router}
else
        AR_CACHE=${AR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/agent-router}
fi

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# step TITLE COMMAND...: runs it with its output kept in a file. A step that takes over 2 seconds gets a line when it
# starts to be long and its duration when it ends; a failing one shows its whole output and ends the script.
step() {
        local title=$1 log start pid rc=0 said=
        shift
        log=$(mktemp "${TMPDIR:-/tmp}/agent-router-step.XXXXXX")
        start=$SECONDS
        "$@" >"$log" 2>&1 </dev/null &
        pid=$!
        while kill -0 "$pid" 2>/dev/null; do
                if [ -z "$said" ] && [ $((SECONDS - start)) -ge 2 ]; then
                        say "$title …"
                        said=1
                elif [ -n "$said" ] && [ $((SECONDS - start)) -ge $((said + 30)) ]; then
                        say "  … $((SECONDS - start)) s: $(tail -c 400 "$log" | tr '\r' '\n' | grep . | tail -n 1 | cut -c1-90)"
                        said=$((SECONDS - start))
                fi
                sleep 0.2
        done
        wait "$pid" || rc=$?
        if [ "$rc" -ne 0 ]; then
                say "$title: failed (status $rc)" >&2
                cat "$log" >&2
                rm -f "$log"
                return "$rc"
        fi
        [ -z "$said" ] || say "  done in $((SECONDS - start)) s"
        rm -f "$log"
}

# as_root COMMAND...: as it is for root, by sudo where there is one that needs no password or a terminal to ask at.
as_root() {
        if [ "$(id -u)" -eq 0 ]; then
                "$@"
        elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 1 ]; }; then
                sudo -- "$@"
        else
                printf 'This needs root, and sudo is not available here. As root, run:\n    %s\n' "$*" >&2
                return 1
        fi
}

# The native Codex binary below the CLI cache, for this machine's architecture; fails where it is not installed.
cli_codex() {
        local arch triple bin
        case $(uname -m) in
                x86_64) arch=x64 triple=x86_64-unknown-linux-musl ;;
                aarch64) arch=arm64 triple=aarch64-unknown-linux-musl ;;
                *) return 1 ;;
        esac
        bin=$AR_CACHE/cli/node_modules/@openai/codex-linux-$arch/vendor/$triple/bin/codex
        [ -x "$bin" ] && printf '%s\n' "$bin"
}
