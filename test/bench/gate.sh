#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# gate.sh BINARY: compares a binary with that of the last release, or, if there is none, with
# that of the commit that the file base names. It fails if the binary is slower by more than a
# quarter, and says what it saw.
set -eu
cd "$(dirname "$0")/../.."

if base=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null); then
	echo "comparing with the last release, $base"
else
	base=$(cat test/bench/base)
	echo "there is no tag of a release: comparing with commit $base (test/bench/base)"
fi
exec "${GO:-go}" run ./test/bench compare --short "$base" "$1"
