#!/usr/bin/env bash
# Builds the runner if needed and runs it with the same arguments (`-h` lists them).
# Arguments of its own:
#   --no-setup    install nothing: print the commands that would
#   --self-test   set up, then pass the project's own tests
#   lab …         the lab's own commands: setup, kernels, hosts, shell, …
# --host PROFILE, --arch ARCH and --kernel SPEC run the tests on an emulated host (docs/lab.md); so
# does a machine without a usable /dev/kvm, unless --host native forbids it.
# Its own exit status is never 1, which says that KVM is wrong: it is 2, with --bisect 125.
set -euo pipefail

root=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
setup=yes
self_test=no
refusal=2
arguments=()
own=yes
for argument in "$@"; do
    case $own$argument in
        yes--no-setup) setup=no ;;
        yes--self-test) self_test=yes ;;
        *)
            [[ $own$argument == yes-- ]] && own=no
            [[ $own$argument == yes--bisect ]] && refusal=125
            arguments+=("$argument")
            ;;
    esac
done

say() {
    printf '%s\n' "$*" >&2
}

# Says why nothing was run, and ends.
refuse() {
    say "error: $1"
    exit "$refusal"
}

watcher=
# What goes wrong in this script itself is no verdict on KVM. A signal's status stays, so that it ends
# a bisection.
leave() {
    local status=$?
    [[ -n $watcher ]] && kill -KILL "$watcher" 2>/dev/null
    case $status in
        0 | 2 | 125 | 129 | 130 | 143) exit "$status" ;;
        *) exit "$refusal" ;;
    esac
}
trap leave EXIT

# A home for Rust and for what is built, where the environment names none that there is.
find_home() {
    if [[ ! -d ${HOME-} ]]; then
        HOME=$(getent passwd "$EUID" | cut -d : -f 6) || true
        [[ -d $HOME ]] || HOME=${TMPDIR:-/tmp}
        export HOME
    fi
}

# Where the build goes: CARGO_TARGET_DIR, the checkout, or the user's cache if the checkout cannot be
# written.
find_target() {
    local target=${CARGO_TARGET_DIR:-$root/target}
    if [[ -z ${CARGO_TARGET_DIR-} ]] && ! { mkdir -p "$target" && [[ -w $target ]]; } 2>/dev/null; then
        target=${XDG_CACHE_HOME:-$HOME/.cache}/kvm-conformance/target
        say "this user may not write $root/target; building in $target"
    fi
    mkdir -p "$target" 2>/dev/null || refuse "cannot make $target: name another folder in CARGO_TARGET_DIR"
    # Cargo takes a relative path from its own working directory.
    CARGO_TARGET_DIR=$(cd -- "$target" && pwd)
    export CARGO_TARGET_DIR
    logs=$CARGO_TARGET_DIR/logs
    mkdir -p "$logs" 2>/dev/null || refuse "cannot write in $CARGO_TARGET_DIR: name another folder in CARGO_TARGET_DIR"
}

# Whether the Rust at hand is as new as Cargo.toml asks.
rust_is_new_enough() {
    local wanted have
    command -v cargo >/dev/null || return 1
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1)
    have=$(cd "$root" && rustc --version 2>/dev/null | cut -d ' ' -f 2) || return 1
    [[ -n $have ]] && printf '%s\n%s\n' "$wanted" "$have" | sort --version-sort --check=quiet
}

# The commands that install what is missing, one a line.
missing() {
    local packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    command -v ld >/dev/null || packages+=(binutils)
    if ! rust_is_new_enough && ! command -v rustup >/dev/null; then
        # Debian's own up-to-date Rust, from its security archive.
        packages+=(cargo-web rustc-web)
    fi
    if ((${#packages[@]} > 0)); then
        # A machine without package lists is as bare as one without a compiler.
        printf 'apt-get update -qq && apt-get install -y --no-install-recommends %s\n' \
            "${packages[*]}"
    fi
    if ! rust_is_new_enough && command -v rustup >/dev/null; then
        printf 'rustup toolchain install stable --profile minimal && rustup default stable\n'
    fi
}

set_up() {
    local commands command log
    # An earlier set-up may have put Rust where this shell does not look.
    [[ -d ${CARGO_HOME:-$HOME/.cargo}/bin ]] && PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    commands=$(missing)
    [[ -z $commands ]] && return
    if [[ $setup == no ]] || { [[ $commands == *apt-get* ]] && ((EUID != 0)); }; then
        say "error: something is missing to build the tests; install it with:"
        say "$commands"
        exit "$refusal"
    fi
    while IFS= read -r command; do
        say "set-up: $command"
        log=$logs/set-up.log
        [[ $command == apt-get* ]] && command="export DEBIAN_FRONTEND=noninteractive; $command -qq"
        watch_log 'set-up' "$log"
        if ! bash -c "$command" >"$log" 2>&1 </dev/null; then
            stop_watching
            tail -n 20 "$log" >&2
            refuse "that did not work (all of it: $log); nothing was run"
        fi
        stop_watching
    done <<<"$commands"
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

# Shows, as long as something writes to a log, that it goes on and how far it is: on a terminal in one
# line that is written over, else a line now and then. Nothing for what is done in two seconds.
watch_log() {
    local what=$1 log=$2 seconds=0 line step text
    : >"$log"
    {
        while sleep 1 2>/dev/null; do
            seconds=$((seconds + 1))
            ((seconds >= 2)) || continue
            line=$(tail -n 1 "$log" | tr -d '\r\000' | sed 's/^ *//' | cut -c 1-60)
            step=$(grep -cE '^ *(Compiling|Unpacking|Setting up) ' "$log" || true)
            text="$what: $seconds s"
            ((step > 0)) && text+=", step $step"
            [[ -n $line ]] && text+=" ($line)"
            if [[ -t 2 ]]; then
                printf '\r\033[K%s' "$text" >&2
            elif ((seconds == 2 || seconds % 15 == 0)); then
                say "$text"
            fi
        done
    } </dev/null >/dev/null &
    watcher=$!
}

stop_watching() {
    # It may not even have begun, and would take a signal that it can handle for this script's.
    kill -KILL "$watcher" 2>/dev/null || true
    wait "$watcher" 2>/dev/null || true
    watcher=
    if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
}

# The paragraphs of a build's log that say what is wrong; a build in a build indents its own.
errors() {
    awk 'BEGIN { RS = ""; ORS = "\n\n" }
        { sub(/^.*--- stderr\n/, "") }
        /^ *error/ && !/^ *error: (could not compile|failed to run custom build|aborting)/' "$1"
}

# Builds a binary of a package of the workspace; puts its path into `built`.
build() {
    local log=$logs/build-$2.log messages=$logs/build-$2.json
    watch_log "building $2" "$log"
    # From the workspace: Cargo's settings in it hold for who is there.
    if ! (cd -- "$root" && exec cargo build --release -p "$1" --bin "$2" \
        --message-format=json-render-diagnostics >"$messages" 2>"$log"); then
        stop_watching
        local what
        what=$(errors "$log")
        printf '%s\n' "${what:-$(tail -n 20 "$log")}" >&2
        refuse "it does not build (all of it: $log)"
    fi
    stop_watching
    built=$(sed -n 's/.*"executable":"\([^"]*\/'"$2"'\)".*/\1/p' "$messages" | tail -n 1)
    [[ -x $built ]] || refuse "cargo built no $2"
}

# Where the tests are to run: "native", or "lab" for an emulated host.
place() {
    local argument place='' previous='' lists=no
    for argument in "$@"; do
        case $previous in
            --host) place=$([[ $argument == native ]] && echo native || echo lab) ;;
            --kernel | --arch) place=${place:-lab} ;;
        esac
        case $argument in
            --) break ;;
            --host=native) place=native ;;
            --host=*) place=lab ;;
            --kernel=* | --arch=*) place=${place:-lab} ;;
            -l | --list) lists=yes ;;
            -h | --help | -V | --version | report | compare | explain)
                place=native
                break
                ;;
        esac
        previous=$argument
    done
    if [[ -z $place ]]; then
        place=native
        if [[ $lists == no ]] && [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
            local why='is not there'
            [[ -e /dev/kvm ]] && why='may not be opened by this user'
            say "/dev/kvm $why: running on the lab's amd64-svm host (--host native forbids it)"
            place=lab
        fi
    fi
    printf '%s\n' "$place"
}

find_home
find_target
set_up
if [[ $self_test == yes ]]; then
    cd -- "$root"
    exec cargo test --workspace --no-fail-fast "${arguments[@]}"
fi
export KVM_CONFORMANCE_COMMAND=${KVM_CONFORMANCE_COMMAND:-$0}
export KVM_CONFORMANCE_ROOT=$root
if [[ ${arguments[0]-} == lab ]]; then
    build lab lab
    exec "$built" "${arguments[@]:1}"
fi
if [[ $(place "${arguments[@]}") == lab ]]; then
    build lab lab
    exec "$built" test "${arguments[@]}"
fi
build suites kvm-conformance
exec "$built" "${arguments[@]}"
