//! JSON Schemas: of the configuration file for editors, and in the shape of the Control API's `/v1/schema`.

use serde_json::{Map, Value as Json, json};

use crate::config;
use crate::plugin::registry;

/// JSON Schema of the configuration file, plugin configurations included.
pub fn file() -> Json {
    config::schema(&registry::schemas())
}

/// Sections of the file and their kinds in `/v1/schema`.
const KINDS: &[(&str, &str)] = &[
    ("routes", "route"),
    ("services", "service"),
    ("upstreams", "upstream"),
    ("consumers", "consumer"),
    ("consumer_groups", "consumer_group"),
    ("global_rules", "global_rule"),
    ("plugin_configs", "plugin_config"),
    ("ssls", "ssl"),
    ("stream_routes", "stream_route"),
    ("protos", "proto"),
];

/// `/v1/schema` (apisix/admin.md §4).
pub fn control() -> Json {
    let file = file();
    let mut main = Map::new();
    for (section, kind) in KINDS {
        if let Some(schema) = file.pointer(&format!("/properties/{section}/items")) {
            main.insert((*kind).to_string(), schema.clone());
        }
    }
    let described = |(name, schema): (String, Json)| {
        let priority = registry::lookup(&name).map(|registered| registered.priority);
        (name, json!({"schema": schema, "priority": priority}))
    };
    let plugins: Map<String, Json> = registry::schemas().into_iter().map(described).collect();
    json!({"main": main, "plugins": plugins})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_a_schema() {
        let page = control();
        for (_, kind) in KINDS {
            assert!(page["main"][kind].is_object(), "{kind}");
        }
    }
}
