//! Consumers and credentials as auth plugins look them up: key attribute → identity. APISIX plugins-first.md.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;

/// Who a client is.
#[derive(Debug, PartialEq)]
pub struct Identity {
    /// `username`
    pub username: Arc<str>,
    /// Credential id, if a credential was used.
    pub credential: Option<Arc<str>>,
    /// Label `custom_id`.
    pub custom_id: Option<Arc<str>>,
    /// `group_id`
    pub group: Option<Arc<str>>,
    /// The auth plugin's configuration on the consumer or credential.
    pub auth_conf: Json,
    /// Index of the consumer in the snapshot, for the merged chain.
    pub index: usize,
}

/// All identities of an epoch, by auth plugin and key.
#[derive(Debug, Default)]
pub struct Consumers {
    by_key: HashMap<&'static str, HashMap<String, Arc<Identity>>>,
    by_name: HashMap<Arc<str>, Arc<Identity>>,
}

/// Auth plugins and the attribute of their consumer configuration that identifies a client.
pub const KEY_ATTRIBUTES: &[(&str, &str)] = &[("key-auth", "key")];

impl Consumers {
    /// Files an identity under an auth plugin's key. A later one with the same key replaces the earlier, as in APISIX.
    pub fn insert(&mut self, plugin: &'static str, key: String, identity: Arc<Identity>) {
        self.by_key.entry(plugin).or_default().insert(key, identity);
    }

    /// Files a consumer under its name, for `anonymous_consumer`.
    pub fn insert_name(&mut self, identity: Arc<Identity>) {
        self.by_name.insert(identity.username.clone(), identity);
    }

    /// The identity with this key.
    pub fn find(&self, plugin: &str, key: &str) -> Option<&Identity> {
        self.by_key.get(plugin)?.get(key).map(|identity| &**identity)
    }

    /// True if any consumer carries the plugin.
    pub fn any(&self, plugin: &str) -> bool {
        self.by_key.get(plugin).is_some_and(|keys| !keys.is_empty())
    }

    /// The consumer of this name.
    pub fn named(&self, username: &str) -> Option<&Identity> {
        self.by_name.get(username).map(|identity| &**identity)
    }
}
