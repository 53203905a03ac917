# Stands in for debconf while the tool root is configured: every question has
# its default answer, and no Perl is started to say so.
db_answer() {
    RET=
    case $1 in
@ANSWERS@
        *) return 10 ;;
    esac
}
db_get() { db_answer "$@"; }
db_fget() { RET=true; }
db_metaget() { RET=; }
db_capb() { RET=; }
db_version() { RET=2.1; }
db_input() { return 30; }
db_go() { return 0; }
db_set() { return 0; }
db_fset() { return 0; }
db_subst() { return 0; }
db_reset() { return 0; }
db_title() { return 0; }
db_settitle() { return 0; }
db_info() { return 0; }
db_progress() { return 0; }
db_register() { return 0; }
db_unregister() { return 0; }
db_purge() { return 0; }
db_beginblock() { return 0; }
db_endblock() { return 0; }
db_clear() { return 0; }
db_data() { return 0; }
db_x_loadtemplatefile() { return 0; }
db_stop() { return 0; }
