"""The functions of coi that read what comes from outside, and the tests that fuzz them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALLS = frozenset({
    "loads", "int", "float", "match", "fullmatch", "search", "finditer", "findall",
    "strptime", "fromisoformat", "fromtimestamp", "ip_address", "ip_network", "IPv4Address",
    "IPv4Network", "IPv4Interface", "IPv6Address", "urlsplit", "from_bytes", "frombuf",
    "b64decode",
})  # fmt: skip
"""Calls that make something else of a text or of bytes."""

FUZZED: Mapping[str, tuple[str, ...]] = {
    # Files of coi's own.
    "test_fuzz_records.py::test_metadata_of_any_kind": (
        "coi.session.store:_read", "coi.session.store:SavedSession.from_json",
        "coi.session.store:Store.directory", "coi.session.store:Store.find", "coi.records:typed",
        "coi.records:path_text",
    ),
    "test_fuzz_records.py::test_approvals_of_any_kind": (
        "coi.config.trust:_read_entry", "coi.config.trust:approvals",
        "coi.config.trust:is_trusted",
    ),
    "test_fuzz_records.py::test_answers_of_any_kind": (
        "coi.network.answers:load", "coi.network.answers:_parse", "coi.network.answers:_when",
        "coi.records:texts",
    ),
    "test_fuzz_records.py::test_attachments_of_any_kind": (
        "coi.network.attachment:load", "coi.network.attachment:_parse", "coi.records:text_map",
    ),
    "test_fuzz_records.py::test_choices_of_any_kind": ("coi.network.attachment:chosen",),
    "test_fuzz_records.py::test_duties_of_any_kind": (
        "coi.network.duty:load", "coi.network.duty:_checked", "coi.network.duty:duties",
        "coi.network.upkeep:fence_of",
    ),
    "test_fuzz_records.py::test_baselines_of_any_kind": (
        "coi.session.baseline:_read", "coi.session.baseline:records",
        "coi.workspace.fingerprint:Entry.from_json",
    ),
    "test_fuzz_records.py::test_quarantines_of_any_kind": (
        "coi.session.settlement:_read", "coi.session.settlement:find",
        "coi.session.settlement:all_of",
    ),
    "test_fuzz_records.py::test_journals_of_any_kind": ("coi.session.settlement:_left",),
    "test_known.py::test_notes_of_any_kind": ("coi.session.known:noted",),
    # What the daemon answers, and what can be set in it.
    "test_client.py::test_no_answer_crashes": ("coi.incus.client:Client.answer",),
    "test_fuzz_daemon.py::test_operations_of_any_shape": ("coi.session.warm:busy_of",),
    "test_fuzz_daemon.py::test_models_of_any_row[Instance]": (
        "coi.incus.instances:Instance.parse", "coi.incus.instances:_first_ipv4",
    ),
    "test_fuzz_daemon.py::test_models_of_any_row[Image]": ("coi.incus.images:Image.parse",),
    "test_fuzz_daemon.py::test_models_of_any_row[Network]": ("coi.incus.networks:Network.parse",),
    "test_fuzz_daemon.py::test_models_of_any_row[NetworkAcl]": ("coi.incus.acls:NetworkAcl.parse",),
    "test_fuzz_daemon.py::test_models_of_any_row[Profile]": ("coi.incus.profiles:Profile.parse",),
    "test_fuzz_daemon.py::test_models_of_any_row[Pool]": ("coi.incus.pools:Pool.parse",),
    "test_fuzz_daemon.py::test_every_call_with_any_answer": (
        "coi.incus.client:Client.answer", "coi.incus.client:listed", "coi.incus.client:table",
        "coi.incus.images:Images.start_publish", "coi.incus.images:Images.finish_publish",
        "coi.incus.networks:Networks.forwards", "coi.image.container:_busy",
    ),
    "test_fuzz_daemon.py::test_the_doctor_takes_any_answer": ("coi.doctor.facts:parsed",),
    "test_fuzz_daemon.py::test_keys_of_any_value": (
        "coi.session.model:number", "coi.session.model:from_instance",
        "coi.session.limits:Limits.onto",
    ),
    "test_fuzz_daemon.py::test_sizes_of_any_text": ("coi.incus.instances:bytes_of",),
    "test_fuzz_daemon.py::test_any_message_is_classified": ("coi.incus.errors:classify",),
    "test_fuzz_daemon.py::test_users_of_any_path": ("coi.incus.urls:uses",),
    "test_fuzz_daemon.py::test_what_an_import_prints": ("coi.incus.images:Images.import_",),
    # What comes out of a container.
    "test_state.py::test_bytes_of_any_kind": ("coi.session.state:filter_stream",),
    "test_state.py::test_damaged_anywhere": (
        "coi.session.state:_CheckedInfo.frombuf", "coi.session.state:_time",
    ),
    "test_extract.py::test_nothing_is_ever_made_outside": (
        "coi.session.extract:_refusal", "coi.session.extract:_link_refusal",
        "coi.session.tarstream:CheckedInfo.seconds",
    ),
    "test_extract.py::test_damaged_bytes_never_escape_as_another_error": (
        "coi.session.tarstream:CheckedInfo.frombuf",
    ),
    "test_fuzz_streams.py::test_a_saved_archive_of_any_kind": (
        "coi.session.state:TarState.entries",
    ),
    "test_fuzz_streams.py::test_maps_of_sparse_files_of_any_kind": (
        "coi.session.tarstream:_number",
    ),
    "test_fuzz_tools.py::test_answers_of_any_kind[claude]": ("coi.tools.claude:Claude.answer",),
    "test_fuzz_tools.py::test_answers_of_any_kind[aider]": ("coi.tools.aider:Aider.answer",),
    "test_fuzz_tools.py::test_every_event_of_an_output_is_read": ("coi.api:json_lines",),
    "test_fuzz_tools.py::test_saved_conversations_of_any_kind": (
        "coi.api:newest", "coi.tools.aider:Aider.find_session_id",
        "coi.tools.claude:Claude.find_session_id",
    ),
    "test_fuzz_words.py::test_what_a_build_container_says_of_its_network": (
        "coi.image.dns:Facts.parse", "coi.image.dns:_is_loopback",
    ),
    "test_fuzz_words.py::test_what_a_build_prints": (
        "coi.image.progress:clean", "coi.image.progress:last_line", "coi.config.text:printable",
    ),
    "test_fuzz_host.py::test_where_packages_come_from": (
        "coi.image.container:BuildContainer.package_host",
    ),
    # The host.
    "test_fuzz_host.py::test_sockets_and_routes_of_any_kind": (
        "coi.network.resolvers:_bound", "coi.network.resolvers:_subnets",
    ),
    "test_fuzz_host.py::test_routing_tables_of_any_kind": ("coi.network.host:_entries",),
    "test_fuzz_host.py::test_every_mount_point_is_read_as_it_is": (
        "coi.workspace.ownership:_filesystems",
    ),
    "test_fuzz_host.py::test_mount_tables_of_any_kind": ("coi.workspace.ownership:uses_shift",),
    "test_fuzz_host.py::test_subordinate_ids_of_any_kind": (
        "coi.workspace.ownership:_allowed", "coi.image.bootstrap:_has_range",
        "coi.doctor.own:_ranges",
    ),
    "test_fuzz_host.py::test_sources_of_any_kind": (
        "coi.image.host:parse_sources", "coi.image.host:debian_mirrors",
    ),
    "test_fuzz_host.py::test_settings_of_apt_of_any_kind": ("coi.image.host:apt_lines",),
    "test_fuzz_host.py::test_settings_of_the_host_of_any_kind": (
        "coi.image.host:_proxies", "coi.image.host:_usable_url", "coi.image.host:_ini_value",
        "coi.image.host:_uplink_mtu", "coi.image.host:read_certificates",
    ),
    "test_fuzz_host.py::test_records_of_the_kernel_of_any_kind": ("coi.network.log:parse",),
    "test_fuzz_host.py::test_lines_of_ovn_of_any_kind": (
        "coi.network.log:parse_ovn", "coi.network.log:from_ovn",
    ),
    "test_fuzz_host.py::test_installed_metadata_of_any_kind": (
        "coi.tools.discover:_section", "coi.tools.discover:_title",
    ),
    "test_fuzz_host.py::test_versions_of_any_text": ("coi.doctor.advisories:parse",),
    "test_fuzz_host.py::test_times_of_any_text": ("coi.doctor.checks:_days",),
    "test_fuzz_host.py::test_networks_configured_in_any_way": (
        "coi.network.route:free_address", "coi.network.route:missing",
        "coi.network.bridge:_address", "coi.network.bridge:_incus_subnets",
        "coi.network.ovn:_address",
    ),
    "test_fuzz_host.py::test_settings_of_the_kernel_of_any_kind": (
        "coi.session.room:kernel_limit",
    ),
    "test_fuzz_host.py::test_names_that_resolve_to_anything": ("coi.network.answers:_ask",),
    "test_fuzz_host.py::test_a_terminal_of_any_name": ("coi.session.terminal:terminal_name",),
    "test_fuzz_tools.py::test_credentials_of_any_kind": ("coi.tools.claude:_credentials",),
    "test_fuzz_tools.py::test_no_key_that_is_to_stay_out_gets_in": (
        "coi.tools.documents:_load_toml", "coi.tools.documents:_key",
        "coi.tools.merge:load_object",
    ),
    # The workspace.
    "test_gitconfig.py::test_what_git_obeys_is_found": (
        "coi.workspace.gitconfig:settings", "coi.workspace.gitconfig:further",
    ),
    "test_gitconfig.py::test_nothing_that_git_obeys_passes_for_a_branch": (
        "coi.workspace.gitconfig:_tracks", "coi.workspace.gitconfig:harmless",
    ),
    "test_gitconfig.py::test_any_bytes_are_read": (
        "coi.workspace.gitconfig:_of_a_new_one", "coi.workspace.gitconfig:gitdir",
    ),
    "test_fuzz_words.py::test_an_index_of_any_kind": ("coi.workspace.gitconfig:gitlinks",),
    # Configuration and command line.
    "test_config_parse.py::test_any_tree_gives_a_layer_or_a_config_error": (
        "coi.config.parse:parse", "coi.config.parse:_Reader.file",
    ),
    "test_config_show.py::test_the_text_is_a_file_that_gives_the_same_configuration": (
        "coi.config.text:_bare",
    ),
    "test_fuzz_words.py::test_values_of_the_configuration": (
        "coi.config.kinds:_is_address", "coi.config.kinds:_cpu_set",
        "coi.config.kinds:count_limit.check", "coi.config.kinds:cpu_limit.check",
        "coi.config.kinds:integer.from_text", "coi.config.kinds:size_limit.check",
        "coi.config.kinds:text.check", "coi.config.kinds:tool_name", "coi.config.kinds:variable",
    ),
    "test_fuzz_words.py::test_limits_that_are_compared": (
        "coi.config.tighten:_cpus", "coi.config.tighten:less_memory", "coi.config.tighten:size",
    ),
    "test_fuzz_words.py::test_published_ports": (
        "coi.config.ports:entry", "coi.config.ports:split",
    ),
    "test_fuzz_words.py::test_allowed_domains": (
        "coi.config.hosts:domain", "coi.config.hosts:_network", "coi.network.domains:split",
    ),
    "test_fuzz_words.py::test_ranges_of_addresses": ("coi.network.addresses:RangeSet.parse",),
    "test_fuzz_words.py::test_where_a_packet_is_to_go": ("coi.network.explain:target",),
    "test_fuzz_words.py::test_a_size_is_a_number_or_refused": (
        "coi.cli.file:parse_size", "coi.cli.file:human",
    ),
    "test_fuzz_words.py::test_limits_are_keys_and_values": ("coi.cli.context:parse_limits",),
    "test_fuzz_words.py::test_the_environment_is_names_and_lines": (
        "coi.cli.context:parse_environment",
    ),
    "test_fuzz_words.py::test_names_of_images_and_containers": (
        "coi.cli.image:_check_alias", "coi.image.build:_check_name",
        "coi.image.bootstrap:debian_base", "coi.image.builder:is_version",
        "coi.session.lookup:check_name", "coi.tools.skeleton:check_name",
    ),
    "test_fuzz_words.py::test_what_a_plugin_says_of_its_tool": (
        "coi.tools.check:sound", "coi.tools.check:_texts", "coi.tools.check:_lists",
        "coi.tools.check:path_fault", "coi.tools.check:variable_fault",
    ),
    "test_fuzz_words.py::test_what_a_process_reports_is_whole_or_its_death": (
        "coi.session.many:_read",
    ),
    "test_naming.py::test_a_prefix_is_usable_or_refused": ("coi.session.naming:prefix",),
    "test_naming.py::test_whatever_is_accepted_is_a_plain_file_name": (
        "coi.session.naming:check_session_id", "coi.session.naming:is_session_id",
    ),
    "test_store.py::test_what_goes_of_any_names_is_what_saves_have_left": (
        "coi.session.store:_torn", "coi.session.store:Store.torn",
    ),
    "test_file_sides.py::test_any_text_is_a_side_or_a_usage_error": (
        "coi.session.transfer:split_remote",
    ),
    "test_mounts.py::test_parse_never_crashes": ("coi.workspace.mounts:parse",),
}  # fmt: skip
"""Tests, and what each of them enters: conftest.py sees to it that it does."""

_OWN = "a number, or an address, that coi has made"
_PATTERN = "a word against one pattern; tests/cli/test_random_lines.py gives commands any words"
NOT_FUZZED: Mapping[str, str] = {
    "coi.cli.context:Context.slot": "a number already: the command line has read it",
    "coi.cli.image:cleanup": "aliases of coi's own images, of which others are left alone",
    "coi.cli.main:run": "the exit code of a command",
    "coi.cli.progress:LiveProgress._render": _OWN,
    "coi.cli.progress:seconds_text": _OWN,
    "coi.image.bootstrap:metadata_tar": "the clock",
    "coi.session.warmpool:_standing": "names of instances: only the form of coi's own counts",
    "coi.image.dns:ensure": "addresses of the configuration, which has checked them",
    "coi.incus.process:Process.wait": "an exit code",
    "coi.network.addresses:RangeSet.__contains__": _OWN,
    "coi.network.addresses:RangeSet.of": _OWN,
    "coi.network.bridge:_Bridge._make": _OWN,
    "coi.network.bridge:candidates": "a digest",
    "coi.network.explain:_address": "what target() has left, or an answer of getaddrinfo(3)",
    "coi.network.nic:ensure": "as coi.network.ovn:_address, in place",
    "coi.session.channel:Channel._poll": "the clock",
    "coi.session.containers:launch": _PATTERN,
    "coi.session.containers:launch.create": _PATTERN,
    "coi.session.containers:mount": _PATTERN,
    "coi.session.inside:attach": _OWN,
    "coi.session.pack:Packer._info": "a time that the kernel gives",
    "coi.session.transfer:pull": _OWN,
}
"""Functions that call one of CALLS and read nothing from outside, and what they read."""


@cache
def first_lines(source: str) -> Mapping[str, int]:
    """The functions of a module, by qualified name, and where their code begins."""
    found: dict[str, int] = {}

    def walk(node: ast.AST, names: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = (*names, child.name)
                lines = [child.lineno, *(one.lineno for one in child.decorator_list)]
                if isinstance(child, ast.FunctionDef):
                    found[".".join(inner)] = min(lines)
            walk(child, inner)

    walk(ast.parse(source), ())
    return found


def places(functions: Iterable[str]) -> dict[tuple[str, int], str]:
    """File and first line of the code of each function, as the interpreter knows them."""
    found = {}
    for function in functions:
        module, _, name = function.partition(":")
        file = "/" + module.replace(".", "/") + ".py"
        source = (ROOT / file[1:]).read_text()
        found[file, first_lines(source)[name]] = function
    return found
