//! Fields of what later versions build: checked now, so that a file is right once they are there, and refused as
//! "not supported yet" as long as they are not. Bounds are APISIX's (apisix/resource-fields.md).

use super::fields::{CREATED, DESC, ID, LABELS, NAME, PLUGINS, Rule, Schema, Ty, UPDATED, UPSTREAM, f, object, open, ruled};

pub(super) const CERT: Ty = Ty::Text(128, 65_536);
pub(super) const KEY: Ty = Ty::Text(64, 65_536);
pub(super) static SSL: Schema = Schema {
    required: &["cert", "key"],
    ..ruled(
        "ssl",
        &[
            f("sni", Ty::Host, "", "Server name, `*.example.com` allowed; `sni` or `snis` for servers."),
            f("snis", Ty::List(&Ty::Host, 1), "", "Several server names."),
            f("cert", CERT, "", "Certificate chain, PEM."),
            f("key", KEY, "", "Private key, PEM."),
            f("certs", Ty::List(&CERT, 0), "", "Further chains, for another kind of key."),
            f("keys", Ty::List(&KEY, 0), "", "Their keys, in the same order."),
            f("type", Ty::Enum(&["server", "client"]), "server", "For clients of ours, or for nodes."),
            f("client", Ty::Object(&SSL_CLIENT), "", "Certificates of clients are asked for."),
            f("ssl_protocols", Ty::List(&Ty::Enum(&["TLSv1.1", "TLSv1.2", "TLSv1.3"]), 0), "", "Versions for these names."),
            f("status", Ty::Int(0, 1), "1", "0 takes it out of use."),
            ID,
            DESC,
            LABELS,
            CREATED,
            UPDATED,
        ],
        &[Rule::OneOf(&["sni", "snis"], "type", "client"), Rule::NotWith("sni", &["snis"])],
    )
};

static SSL_CLIENT: Schema = Schema {
    required: &["ca"],
    closed: false,
    ..object(
        "ssl.client",
        &[
            f("ca", CERT, "", "Certificate authority, PEM."),
            f("depth", Ty::Int(0, i64::MAX), "1", "Longest chain."),
            f("skip_mtls_uri_regex", Ty::List(&Ty::Text(1, 4096), 1), "", "Paths that need no certificate."),
        ],
    )
};

pub(super) static STREAM_ROUTE: Schema = object(
    "stream_route",
    &[
        f("remote_addr", Ty::Ip, "", "Client address or net."),
        f("server_addr", Ty::Ip, "", "Local address."),
        f("server_port", Ty::Int(1, 65_535), "", "Local port."),
        f("sni", Ty::Host, "", "Server name of the TLS hello."),
        f("upstream", Ty::Object(&UPSTREAM), "", "The upstream it leads to."),
        f("upstream_id", Ty::Id, "", "The same by id."),
        f("service_id", Ty::Id, "", "Its service."),
        f("protocol", Ty::Object(&STREAM_PROTOCOL), "", "A protocol inside the stream."),
        PLUGINS,
        ID,
        NAME,
        DESC,
        LABELS,
        CREATED,
        UPDATED,
    ],
);

static STREAM_PROTOCOL: Schema = Schema {
    required: &["name"],
    closed: false,
    ..object(
        "stream_route.protocol",
        &[
            f("name", Ty::Text(0, 256), "", "Its name."),
            f("superior_id", Ty::Id, "", "The stream route it continues."),
            f("conf", Ty::Any, "", "Its settings."),
            f("logger", Ty::List(&Ty::Object(&STREAM_LOGGER), 0), "", "Loggers."),
        ],
    )
};

static STREAM_LOGGER: Schema = ruled(
    "stream_route.protocol.logger",
    &[
        f("name", Ty::Text(0, 256), "", "Plugin."),
        f("filter", Ty::Vars, "", "When it logs."),
        f("conf", Ty::Any, "", "Its settings."),
    ],
    &[Rule::Needs("name", &["conf"])],
);

pub(super) static PROTO: Schema = Schema {
    required: &["content"],
    ..object(
        "proto",
        &[
            f("content", Ty::Text(1, 1_048_576), "", "A `.proto` file, or a descriptor in base64."),
            ID,
            NAME,
            DESC,
            LABELS,
            CREATED,
            UPDATED,
        ],
    )
};

/// One table for the three managers; which one it is stands in front of the `/` of its id.
pub(super) static SECRET: Schema = Schema {
    required: &["id"],
    closed: false,
    ..ruled(
        "secret",
        &[
            f("id", Ty::Text(1, 256), "", "`vault/ID`, `aws/ID` or `gcp/ID`."),
            f("uri", Ty::Text(1, 4096), "", "vault: its address."),
            f("prefix", Ty::Text(0, 4096), "", "vault: path in front of keys."),
            f("token", Ty::Text(0, 4096), "", "vault: token."),
            f("namespace", Ty::Text(0, 4096), "", "vault: namespace."),
            f("timeout", Ty::Number(true), "5", "vault: seconds."),
            f("access_key_id", Ty::Text(0, 4096), "", "aws: key id."),
            f("secret_access_key", Ty::Text(0, 4096), "", "aws: key."),
            f("session_token", Ty::Text(0, 65_536), "", "aws: session."),
            f("region", Ty::Text(0, 256), "us-east-1", "aws: region."),
            f("endpoint_url", Ty::Text(1, 4096), "", "aws: address."),
            f("auth_config", Ty::Object(&GCP_AUTH), "", "gcp: service account."),
            f("auth_file", Ty::Text(1, 4096), "", "gcp: file with it."),
            f("ssl_verify", Ty::Bool, "true", "gcp: verify certificates."),
        ],
        &[Rule::NotWith("auth_config", &["auth_file"])],
    )
};

/// What a secret's manager needs, which its id names: (fields of which one is needed) per need.
///
/// # Errors
/// A manager that does not exist, or an id without one.
pub(super) fn secret_needs(id: &str) -> Result<&'static [&'static [&'static str]], String> {
    match id.split_once('/') {
        Some(("vault", _)) => Ok(&[&["uri"], &["prefix"], &["token"]]),
        Some(("aws", _)) => Ok(&[&["access_key_id"], &["secret_access_key"]]),
        Some(("gcp", _)) => Ok(&[&["auth_config", "auth_file"]]),
        Some((other, _)) => Err(format!("unknown secret manager `{other}`")),
        None => Err(format!("`{id}` names no secret manager: vault/ID, aws/ID or gcp/ID")),
    }
}

static GCP_AUTH: Schema = Schema {
    required: &["client_email", "private_key", "project_id"],
    closed: false,
    ..object(
        "secret.auth_config",
        &[
            f("client_email", Ty::Text(1, 4096), "", "Account."),
            f("private_key", Ty::Text(1, 65_536), "", "Its key."),
            f("project_id", Ty::Text(1, 4096), "", "Project."),
            f("token_uri", Ty::Text(1, 4096), "https://oauth2.googleapis.com/token", "Where tokens are had."),
            f("scope", Ty::List(&Ty::Text(1, 4096), 0), "", "Scopes."),
            f("entries_uri", Ty::Text(1, 4096), "https://secretmanager.googleapis.com/v1", "Where secrets are had."),
        ],
    )
};

pub(super) static DISCOVERY_ARGS: Schema = open(
    "discovery_args",
    &[f("namespace_id", Ty::Text(0, 4096), "", "Namespace."), f("group_name", Ty::Text(0, 4096), "", "Group.")],
);

pub(super) static STORE: Schema =
    Schema { required: &["path"], ..object("source.store", &[f("path", Ty::Text(1, 4096), "", "Its file.")]) };

pub(super) static ETCD: Schema = Schema {
    required: &["endpoints"],
    ..object(
        "source.etcd",
        &[
            f("endpoints", Ty::List(&Ty::Text(1, 4096), 1), "", "Addresses of its members."),
            f("prefix", Ty::Text(1, 4096), "/apisix", "Prefix of its keys."),
        ],
    )
};

pub(super) static ADMIN: Schema =
    object("admin", &[f("address", Ty::Address(false), "", "Where it listens; it is off until this is given.")]);
