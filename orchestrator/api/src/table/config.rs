//! ConfigMaps, Secrets, ServiceAccounts, and the kinds that extend the API.

use serde_json::Value;

use super::Printer;
use super::cell::{self, at, count, list, text, text_or};
use super::column::{AGE, CREATED_AT, NAME, integer as number, text as text_column};

pub(super) fn printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "configmaps" => &CONFIG_MAPS,
        "secrets" => &SECRETS,
        "serviceaccounts" => &SERVICE_ACCOUNTS,
        _ => return None,
    })
}

pub(super) fn extension_printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "mutatingwebhookconfigurations" | "validatingwebhookconfigurations" => &WEBHOOKS,
        "validatingadmissionpolicies" | "mutatingadmissionpolicies" => &POLICIES,
        "validatingadmissionpolicybindings" | "mutatingadmissionpolicybindings" => &POLICY_BINDINGS,
        "customresourcedefinitions" => &CUSTOM_RESOURCE_DEFINITIONS,
        "apiservices" => &API_SERVICES,
        _ => return None,
    })
}

static CONFIG_MAPS: Printer = Printer {
    columns: &[NAME, text_column("Data", "Number of keys."), AGE],
    cells: |o, now| {
        vec![cell::name(o), (count(o, "data") + count(o, "binaryData")).into(), cell::age(o, now)]
    },
};

static SECRETS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Type", "What the secret is for."),
        text_column("Data", "Number of keys."),
        AGE,
    ],
    cells: |o, now| vec![cell::name(o), text(o, "type").into(), count(o, "data").into(), cell::age(o, now)],
};

static SERVICE_ACCOUNTS: Printer = Printer {
    columns: &[NAME, text_column("Secrets", "Number of secrets that its pods may use."), AGE],
    cells: |o, now| vec![cell::name(o), count(o, "secrets").into(), cell::age(o, now)],
};

static WEBHOOKS: Printer = Printer {
    columns: &[NAME, number("Webhooks", "Number of webhooks."), AGE],
    cells: |o, now| vec![cell::name(o), count(o, "webhooks").into(), cell::age(o, now)],
};

static POLICIES: Printer = Printer {
    columns: &[
        NAME,
        number("Validations", "Number of rules."),
        text_column("ParamKind", "Kind of its parameters."),
        AGE,
    ],
    cells: |o, now| {
        let parameters = at(o, "spec.paramKind")
            .map_or("<unset>".to_owned(), |p| format!("{}/{}", text(p, "apiVersion"), text(p, "kind")));
        let rules = count(o, "spec.validations") + count(o, "spec.mutations");
        vec![cell::name(o), rules.into(), parameters.into(), cell::age(o, now)]
    },
};

static POLICY_BINDINGS: Printer = Printer {
    columns: &[
        NAME,
        text_column("PolicyName", "Policy that is bound."),
        text_column("ParamRef", "Object with its parameters."),
        AGE,
    ],
    cells: |o, now| {
        let parameters =
            at(o, "spec.paramRef").map_or("<unset>".to_owned(), |p| match text(p, "namespace") {
                "" => text_or(p, "name", "*").to_owned(),
                namespace => format!("{namespace}/{}", text_or(p, "name", "*")),
            });
        vec![cell::name(o), text(o, "spec.policyName").into(), parameters.into(), cell::age(o, now)]
    },
};

static CUSTOM_RESOURCE_DEFINITIONS: Printer =
    Printer { columns: &[NAME, CREATED_AT], cells: |o, _| vec![cell::name(o), cell::created_at(o)] };

static API_SERVICES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Service", "Who serves the group."),
        text_column("Available", "Whether it answers."),
        AGE,
    ],
    cells: |o, now| {
        let service = at(o, "spec.service")
            .map_or("Local".to_owned(), |s| format!("{}/{}", text(s, "namespace"), text(s, "name")));
        vec![cell::name(o), service.into(), available(o).into(), cell::age(o, now)]
    },
};

fn available(service: &Value) -> String {
    let conditions = list(service, "status.conditions").iter();
    match conditions.into_iter().find(|c| text(c, "type") == "Available") {
        Some(c) if text(c, "status") == "True" => "True".into(),
        Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
        None => "Unknown".into(),
    }
}
