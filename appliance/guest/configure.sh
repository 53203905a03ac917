#!/bin/sh
# Runs once, as root, in the tool root mounted read-write, inside the microVM of
# the first stage. It finishes what unpacking cannot do: the maintainer scripts
# that matter, the cache of the dynamic linker, the index of kernel modules.
#
# Lines that begin with `vbuild-` are for the host: a step begins, a step
# failed, all is done. Everything else is output for the log.
set -u
here=/var/lib/vbuild
export DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
export DPKG_ROOT= DPKG_ADMINDIR=/var/lib/dpkg
DPKG_MAINTSCRIPT_ARCH=$(dpkg --print-architecture)
export DPKG_MAINTSCRIPT_ARCH
export DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_RUNNING_VERSION=1.21
export HOME=/root LC_ALL=C.UTF-8 PERL_BADLANG=0
# Programs that only make sense on a running system are replaced by `true`
# while the scripts run, and the byte-compiler of Python, which would take
# longer here than it ever saves.
PATH=$here/stubs:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 022
cd /

fail() {
    echo "vbuild-failed $1 $2"
    exit 1
}

# The module index needs no other step, and there may be a second processor.
depmod_pid=
if [ -s $here/kernel ]; then
    read -r kernel <$here/kernel
    /usr/sbin/depmod "$kernel" &
    depmod_pid=$!
fi

while read -r number total package script; do
    echo "vbuild-step $number $total $package"
    export DPKG_MAINTSCRIPT_PACKAGE="$package" DPKG_MAINTSCRIPT_NAME="${script##*.}"
    case $script in
        *.preinst) set -- install ;;
        *) set -- configure '' ;;
    esac
    "/var/lib/dpkg/info/$script" "$@" </dev/null 2>&1 || fail "$package" $?
    if [ "$script" = base-passwd.preinst ] && [ -e $here/groups ]; then
        while read -r line; do
            grep -q "^${line%%:*}:" /etc/group || echo "$line" >>/etc/group
        done <$here/groups
    fi
done <$here/scripts

echo "vbuild-step 0 0 ldconfig"
/usr/sbin/ldconfig || fail ldconfig $?
if [ -x /usr/bin/openssl ] && [ -d /etc/ssl/certs ]; then
    # OpenSSL finds a certificate by the hash of its subject.
    echo "vbuild-step 0 0 certificates"
    /usr/bin/openssl rehash /etc/ssl/certs >/dev/null 2>&1
fi
if [ -x /usr/bin/python3 ]; then
    # The modules that hooks import most get their byte code now, as a side
    # effect of being imported; the root is read-only later.
    echo "vbuild-step 0 0 python"
    /usr/bin/python3 $here/warm.py
fi
if [ -n "$depmod_pid" ]; then
    echo "vbuild-step 0 0 modules"
    wait "$depmod_pid" || fail depmod $?
fi

if [ -e $here/confmodule ]; then
    cp -p $here/confmodule /usr/share/debconf/confmodule || fail confmodule $?
fi
rm -f /var/lib/dpkg/triggers/Unincorp /var/log/*.log
: >/var/lib/dpkg/triggers/Unincorp
rm -rf $here /tmp/* /var/tmp/*
sync
echo "vbuild-done"
