//! Volumes, claims, storage classes and drivers.

use jiff::Timestamp;
use serde_json::Value;

use super::Printer;
use super::cell::{self, at, count, list, scalar, text, text_or};
use super::column::{AGE, NAME, boolean, integer as number, text as text_column, wide};
use crate::meta;

pub(super) fn printer(plural: &str) -> Option<&'static Printer> {
    Some(match plural {
        "persistentvolumes" => &VOLUMES,
        "persistentvolumeclaims" => &CLAIMS,
        "storageclasses" => &CLASSES,
        "volumeattributesclasses" => &ATTRIBUTES_CLASSES,
        "volumeattachments" => &ATTACHMENTS,
        "csidrivers" => &DRIVERS,
        "csinodes" => &NODES,
        "csistoragecapacities" => &CAPACITIES,
        _ => return None,
    })
}

fn access_modes(object: &Value, path: &str) -> String {
    let order = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes = list(object, path);
    let has = |mode: &str| modes.iter().any(|m| m.as_str() == Some(mode));
    order.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn phase(object: &Value) -> &str {
    if meta::is_being_deleted(object) { "Terminating" } else { text(object, "status.phase") }
}

fn class(object: &Value) -> &str {
    meta::annotation(object, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| text(object, "spec.storageClassName"))
}

static VOLUMES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Capacity", "Size."),
        text_column("Access Modes", "Who may mount it and how."),
        text_column("Reclaim Policy", "What happens to it when it is released."),
        text_column("Status", "Whether it is bound."),
        text_column("Claim", "Claim that it is bound to."),
        text_column("StorageClass", "Its class."),
        text_column("VolumeAttributesClass", "Class of its attributes."),
        text_column("Reason", "Why it is in its state."),
        AGE,
        wide("VolumeMode", "File system or block device."),
    ],
    cells: |o, now| {
        let claim = at(o, "spec.claimRef")
            .map_or(String::new(), |c| format!("{}/{}", text(c, "namespace"), text(c, "name")));
        vec![
            cell::name(o),
            scalar(at(o, "spec.capacity.storage"), "0").into(),
            access_modes(o, "spec.accessModes").into(),
            text(o, "spec.persistentVolumeReclaimPolicy").into(),
            phase(o).into(),
            claim.into(),
            class(o).into(),
            text_or(o, "spec.volumeAttributesClassName", "<unset>").into(),
            text(o, "status.reason").into(),
            cell::age(o, now),
            text_or(o, "spec.volumeMode", "<unset>").into(),
        ]
    },
};

static CLAIMS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Status", "Whether it is bound."),
        text_column("Volume", "Volume that it is bound to."),
        text_column("Capacity", "Size of the volume."),
        text_column("Access Modes", "Who may mount it and how."),
        text_column("StorageClass", "Its class."),
        text_column("VolumeAttributesClass", "Class of its attributes."),
        AGE,
        wide("VolumeMode", "File system or block device."),
    ],
    cells: claim_cells,
};

fn claim_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let volume = text(o, "spec.volumeName");
    let (capacity, modes) = match volume {
        "" => (String::new(), String::new()),
        _ => (scalar(at(o, "status.capacity.storage"), "0"), access_modes(o, "status.accessModes")),
    };
    vec![
        cell::name(o),
        phase(o).into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        class(o).into(),
        text_or(o, "spec.volumeAttributesClassName", "<unset>").into(),
        cell::age(o, now),
        text_or(o, "spec.volumeMode", "<unset>").into(),
    ]
}

static CLASSES: Printer = Printer {
    columns: &[
        NAME,
        text_column("Provisioner", "Who makes volumes of the class."),
        text_column("ReclaimPolicy", "What happens to them when they are released."),
        text_column("VolumeBindingMode", "When they are made."),
        boolean("AllowVolumeExpansion", "Whether they may grow."),
        AGE,
    ],
    cells: |o, now| {
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|a| meta::annotation(o, a) == Some("true"));
        let mark = if default { " (default)" } else { "" };
        vec![
            format!("{}{mark}", meta::name(o)).into(),
            text(o, "provisioner").into(),
            text_or(o, "reclaimPolicy", "Delete").into(),
            text_or(o, "volumeBindingMode", "Immediate").into(),
            flag(o, "allowVolumeExpansion"),
            cell::age(o, now),
        ]
    },
};

fn flag(object: &Value, path: &str) -> Value {
    at(object, path).and_then(Value::as_bool).unwrap_or(false).into()
}

static ATTRIBUTES_CLASSES: Printer = Printer {
    columns: &[NAME, text_column("DriverName", "Driver that knows the attributes."), AGE],
    cells: |o, now| vec![cell::name(o), text(o, "driverName").into(), cell::age(o, now)],
};

static ATTACHMENTS: Printer = Printer {
    columns: &[
        NAME,
        text_column("Attacher", "Driver that attaches."),
        text_column("PV", "Volume."),
        text_column("Node", "Where to."),
        boolean("Attached", "Whether it is done."),
        AGE,
    ],
    cells: |o, now| {
        vec![
            cell::name(o),
            text(o, "spec.attacher").into(),
            text(o, "spec.source.persistentVolumeName").into(),
            text(o, "spec.nodeName").into(),
            flag(o, "status.attached"),
            cell::age(o, now),
        ]
    },
};

static DRIVERS: Printer = Printer {
    columns: &[
        NAME,
        boolean("AttachRequired", "Whether volumes must be attached."),
        boolean("PodInfoOnMount", "Whether mounting needs facts about the pod."),
        boolean("StorageCapacity", "Whether the driver tells its capacity."),
        text_column("TokenRequests", "Audiences of the tokens it wants."),
        boolean("RequiresRepublish", "Whether it wants to be called again and again."),
        text_column("Modes", "Life cycles of its volumes."),
        AGE,
    ],
    cells: |o, now| {
        let join =
            |values: Vec<&str>| if values.is_empty() { "<unset>".to_owned() } else { values.join(",") };
        let modes = list(o, "spec.volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        let tokens = list(o, "spec.tokenRequests").iter().map(|t| text(t, "audience")).collect();
        let attach = at(o, "spec.attachRequired").and_then(Value::as_bool).unwrap_or(true);
        vec![
            cell::name(o),
            attach.into(),
            flag(o, "spec.podInfoOnMount"),
            flag(o, "spec.storageCapacity"),
            join(tokens).into(),
            flag(o, "spec.requiresRepublish"),
            join(modes).into(),
            cell::age(o, now),
        ]
    },
};

static NODES: Printer = Printer {
    columns: &[NAME, number("Drivers", "Number of drivers on the node."), AGE],
    cells: |o, now| vec![cell::name(o), count(o, "spec.drivers").into(), cell::age(o, now)],
};

static CAPACITIES: Printer = Printer {
    columns: &[
        NAME,
        text_column("StorageClassName", "Class that the capacity is for."),
        text_column("Capacity", "Free space."),
    ],
    cells: |o, _| {
        vec![cell::name(o), text(o, "storageClassName").into(), scalar(at(o, "capacity"), "<unset>").into()]
    },
};
