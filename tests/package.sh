#!/usr/bin/env bash
# tests/package.sh [BUILD]: makes the Debian packages and the tarball of BUILD (build/release), and looks whether they hold what
# they should: installed by dpkg into an empty root, with every library that the program wants named by Depends. With
# CAMBIUM_TEST_ROOT=DIR, a bare Debian 12 that debootstrap made (it is copied), apt installs them there and the program runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$(realpath "${1:-build/release}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() { echo "package: $*" >&2; exit 1; }

(cd "$build" && cpack -B "$work" >"$work/cpack.log") || { cat "$work/cpack.log" >&2; exit 1; }
program=$(echo "$work"/cambium_*.deb) library=$(echo "$work"/libcambium-dev_*.deb) tarball=$(echo "$work"/*.tar.gz)
for file in "$program" "$library" "$tarball"; do
  [ -s "$file" ] || fail "no $file"
done

mkdir -p "$work/root/var/lib/dpkg/"{updates,info}
touch "$work/root/var/lib/dpkg/status"
dpkg --root="$work/root" --force-depends --force-not-root --force-script-chrootless --log=/dev/null \
  -i "$program" "$library" >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; exit 1; }
for file in bin/cambium lib/systemd/system/cambium.service share/man/man1/cambium.1 share/bash-completion/completions/cambium \
    share/zsh/site-functions/_cambium share/fish/vendor_completions.d/cambium.fish share/doc/cambium/copyright \
    include/cambium/cambium.h include/cambium/train.h share/doc/libcambium-dev/copyright; do
  [ -s "$work/root/usr/$file" ] || fail "the packages lack /usr/$file"
done
[ -n "$(find "$work/root/usr/lib" -name libcambium.a)" ] || fail "the packages lack libcambium.a"
"$work/root/usr/bin/cambium" version
tar -tzf "$tarball" | grep 'bin/cambium$' >/dev/null || fail "the tarball lacks the program"

depends=$(dpkg-deb -f "$program" Depends)
ldd "$work/root/usr/bin/cambium" | awk '$2 == "=>" { print $3 }' | while read -r path; do
  owner=$(dpkg-query -S "$path" 2>/dev/null || dpkg-query -S "/usr$path" 2>/dev/null || dpkg-query -S "${path#/usr}" 2>/dev/null || true)
  owner=${owner%%:*}
  [ -n "$owner" ] || fail "$path belongs to no package"
  # What the program links itself; the rest comes with those.
  objdump -p "$work/root/usr/bin/cambium" | grep "NEEDED *$(basename "$path")$" >/dev/null || continue
  [[ " $depends" == *" $owner"* ]] || fail "Depends has no $owner, which has $path: $depends"
done

if [ -n "${CAMBIUM_TEST_ROOT:-}" ]; then
  cp -a "$CAMBIUM_TEST_ROOT" "$work/debian"
  cp "$program" "$library" "$work/debian/tmp/"
  cp /etc/resolv.conf "$work/debian/etc/" 2>/dev/null || true
  chroot "$work/debian" sh -ec 'apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    /tmp/cambium_*.deb >/dev/null 2>&1; cambium version; cambium man >/dev/null'
  echo "package: installed in a bare Debian"
fi
echo "package: $(basename "$program") $(($(stat -c %s "$program") >> 10)) KiB, $(basename "$library"), $(basename "$tarball")"
