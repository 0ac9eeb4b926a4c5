#!/bin/sh
# setup.sh - installs what the build needs and lacks on Debian or Ubuntu, and says what. On other systems it lists the
# missing packages and stops. Asks for root (sudo) only when something is missing. With the argument "test" also what the
# tests of many workers run on, Slurm and two MPIs, where apt is; elsewhere these tests take what they find, or skip.
set -eu

packages=
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
fi
[ -n "$packages" ] || exit 0

echo "flrq needs these packages that are not installed:$packages"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Install their equivalents with this system's package manager, then run make again." >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null 2>&1 || {
        echo "Run as root: apt-get install$packages" >&2
        exit 1
    }
    as_root=sudo
    echo "Root is needed to install them."
fi
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
