//! What a Spin application asks of its host, out of its configuration (Spin's lock file, version 0 or 1). Pure.

use std::collections::BTreeSet;

use serde_json::Value;

/// Metadata of a component that stands for a service of the host.
const SERVICES: [(&str, &str); 3] = [
    ("key_value_stores", "Spin's key-value store"),
    ("databases", "Spin's SQLite database"),
    ("ai_models", "Spin's AI models"),
];

/// What this node would have to have, as the part of a sentence.
pub(super) fn needs(config: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let triggers: BTreeSet<String> = list(&config["triggers"])
        .iter()
        .filter_map(|trigger| Some(format!("Spin's {} trigger", trigger["trigger_type"].as_str()?)))
        .collect();
    let mut needs: Vec<String> = triggers.into_iter().collect();
    if needs.is_empty() {
        needs.push("Spin's triggers".to_owned());
    }
    let components = list(&config["components"]);
    let asks = |key: &str| components.iter().any(|c| !list(&c["metadata"][key]).is_empty());
    needs.extend(SERVICES.iter().filter(|(key, _)| asks(key)).map(|(_, name)| (*name).to_owned()));
    if config["variables"].as_object().is_some_and(|variables| !variables.is_empty()) {
        needs.push("Spin's variables".to_owned());
    }
    let required = config["host_requirements"].as_object().into_iter().flatten();
    needs.extend(required.filter(|(_, how)| *how != "optional").map(|(name, _)| name.clone()));
    needs.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_an_application_needs_is_read_from_its_lock_file() {
        let trigger = |kind: &str| json!({"id": "t", "trigger_type": kind, "trigger_config": {}});
        let app = json!({
            "spin_lock_version": 1,
            "host_requirements": {"local_service_chaining": "required", "other": "optional"},
            "variables": {"word": {"secret": true}},
            "triggers": [trigger("redis"), trigger("http"), trigger("http")],
            "components": [
                {"id": "a", "metadata": {"key_value_stores": ["default"], "ai_models": []}},
                {"id": "b", "metadata": {"databases": ["default"]}},
            ],
        });
        let expected = "Spin's http trigger, Spin's redis trigger, Spin's key-value store, Spin's SQLite database, \
                        Spin's variables, local_service_chaining";
        assert_eq!(needs(&app), expected);
        assert_eq!(needs(&Value::Null), "Spin's triggers");
    }
}
