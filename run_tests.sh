#!/usr/bin/env bash
# Builds the runner if needed and runs it with the same arguments (`-h` tells them).
# Arguments of its own:
#   --no-setup    install nothing: say which command would
#   --self-test   set up, then pass the project's own tests
#   lab …         the lab's own commands: setup, kernels, hosts, shell, …
# --host PROFILE, --arch ARCH and --kernel SPEC run the tests on an emulated host (docs/lab.md); so
# does a machine without a usable /dev/kvm, unless --host native forbids it.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
setup=yes
self_test=no
arguments=()
for argument in "$@"; do
    case $argument in
        --no-setup) setup=no ;;
        --self-test) self_test=yes ;;
        *) arguments+=("$argument") ;;
    esac
done

say() {
    printf '%s\n' "$*" >&2
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
    local commands command
    # An earlier set-up may have put Rust where this shell does not look.
    [[ -d ${CARGO_HOME:-$HOME/.cargo}/bin ]] && PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    commands=$(missing)
    [[ -z $commands ]] && return
    if [[ $setup == no ]] || { [[ $commands == *apt-get* ]] && ((EUID != 0)); }; then
        say "error: something is missing to build the tests; install it with:"
        say "$commands"
        exit 2
    fi
    while IFS= read -r command; do
        say "set-up: $command"
        [[ $command == apt-get* ]] && command="export DEBIAN_FRONTEND=noninteractive; $command -qq"
        # Everything on standard error: standard output belongs to the results.
        if ! bash -c "$command" >&2 </dev/null; then
            say "error: that did not work; nothing was run"
            exit 2
        fi
    done <<<"$commands"
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
}

# Builds binaries of the workspace: pairs of package and binary.
build() {
    local log status=0 targets=()
    while (($# > 0)); do
        targets+=(-p "$1" --bin "$2")
        shift 2
    done
    log=$(cargo build --release --quiet --manifest-path "$root/Cargo.toml" \
        "${targets[@]}" 2>&1) || status=$?
    if ((status != 0)); then
        say "$log"
        say "error: it does not build"
        exit 2
    fi
}

# Where the tests are to run: "native", or "lab" for an emulated host.
place() {
    local argument place='' previous=''
    for argument in "$@"; do
        case $previous in
            --host) place=$([[ $argument == native ]] && echo native || echo lab) ;;
            --kernel | --arch) place=${place:-lab} ;;
        esac
        case $argument in
            --host=native) place=native ;;
            --host=*) place=lab ;;
            --kernel=* | --arch=*) place=${place:-lab} ;;
            -l | --list | -h | --help | -V | --version | report | compare | explain) place=native ;;
        esac
        previous=$argument
    done
    if [[ -z $place ]]; then
        place=native
        if [[ ! -r /dev/kvm || ! -w /dev/kvm ]]; then
            local why='is not there'
            [[ -e /dev/kvm ]] && why='may not be opened by this user'
            say "/dev/kvm $why: running on the lab's amd64-svm host (--host native forbids it)"
            place=lab
        fi
    fi
    printf '%s\n' "$place"
}

set_up
if [[ $self_test == yes ]]; then
    cd "$root"
    exec cargo test --workspace "${arguments[@]}"
fi
host=$(rustc -vV | sed -n 's/^host: //p')
bin=${CARGO_TARGET_DIR:-$root/target}/$host/release
export KVM_CONFORMANCE_COMMAND=${KVM_CONFORMANCE_COMMAND:-$0}
export KVM_CONFORMANCE_ROOT=$root
if [[ ${arguments[0]-} == lab ]]; then
    build lab lab
    exec "$bin/lab" "${arguments[@]:1}"
fi
if [[ $(place "${arguments[@]}") == lab ]]; then
    build lab lab
    exec "$bin/lab" test "${arguments[@]}"
fi
build suites kvm-conformance
exec "$bin/kvm-conformance" "${arguments[@]}"
