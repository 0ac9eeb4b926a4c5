#!/bin/sh
# setup.sh - installs what the build needs and lacks on Debian or Ubuntu, and says what. On other systems it lists the
# missing packages and stops. Asks for root (sudo) only when something is missing. With the argument "test" also what the
# tests of many workers run on, Slurm and two MPIs, and a browser for the page of a report, where apt is; elsewhere these
# tests take what they find, or skip.
set -eu

packages=
browser=
need() { # need PACKAGE TEST...: the package is missing when the test fails
    package=$1
    shift
    "$@" >/dev/null 2>&1 || packages="$packages $package"
}

need build-essential sh -c 'command -v cc && command -v c++ && command -v make'
need cmake command -v cmake
need pkg-config command -v pkg-config
if [ -n "$packages" ]; then
    # without a compiler and pkg-config the tests below mean nothing: take everything
    packages="$packages libopenblas-dev liblapacke-dev libjansson-dev libpcre2-dev libsentencepiece-dev"
    packages="$packages libxxhash-dev libutf8proc-dev libcmocka-dev"
else
    need libopenblas-dev pkg-config --exists openblas
    need liblapacke-dev pkg-config --exists lapacke
    need libjansson-dev pkg-config --exists jansson
    need libpcre2-dev pkg-config --exists libpcre2-8
    need libsentencepiece-dev pkg-config --exists sentencepiece
    need libxxhash-dev pkg-config --exists libxxhash
    need libutf8proc-dev pkg-config --exists libutf8proc
    need libcmocka-dev pkg-config --exists cmocka
fi
if [ "${1:-}" = test ] && command -v apt-get >/dev/null 2>&1; then
    need libopenmpi-dev pkg-config --exists ompi-c
    need openmpi-bin test -e /usr/bin/mpicc.openmpi
    need libmpich-dev pkg-config --exists mpich
    need mpich test -e /usr/bin/mpicc.mpich
    need slurmctld test -e /usr/sbin/slurmctld
    need slurmd test -e /usr/sbin/slurmd
    need slurm-client test -e /usr/bin/sbatch
    need munge test -e /usr/sbin/munged
    # Not every distribution has a browser as a package that can be installed here: without it the setup is complete too.
    command -v chromium >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 || browser=chromium
fi
[ -n "$packages$browser" ] || exit 0

echo "flrq needs these packages that are not installed:$packages${browser:+ $browser (for one test)}"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Install their equivalents with this system's package manager, then run make again." >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        [ -n "$packages" ] || exit 0
        echo "Run as root: apt-get install$packages" >&2
        exit 1
    }
    as_root=sudo
    echo "Root is needed to install them."
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || [ -z "$packages" ]
# shellcheck disable=SC2086
[ -z "$packages" ] || $as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
[ -z "$browser" ] || $as_root apt-get install -y -qq --no-install-recommends "$browser" >/dev/null 2>&1 ||
    echo "$browser cannot be installed: the test of the report's page does not open it in a browser"
