//! The rows of the resource table, in the order of discovery.

use super::Verb::{Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};
use super::{GroupVersionKind, Resource, Scope, Storage, Subresource, Verb};

pub(super) const STANDARD: &[Verb] = &[Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch];
const NO_COLLECTION: &[Verb] = &[Create, Delete, Get, List, Patch, Update, Watch];
const READ: &[Verb] = &[Get, List];
const CREATE: &[Verb] = &[Create];
const GET: &[Verb] = &[Get];
const UPDATE: &[Verb] = &[Update];
pub(super) const SCALE_VERBS: &[Verb] = STATUS;
const STATUS: &[Verb] = &[Get, Patch, Update];
const CONNECT: &[Verb] = &[Create, Get];
const PROXY: &[Verb] = &[Create, Delete, Get, Patch, Update];
const ALL: &[&str] = &["all"];
const API_EXTENSIONS: &[&str] = &["api-extensions"];

const SCALE: Subresource = sub("scale", "autoscaling", "v1", "Scale", STATUS);

const fn sub(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [Verb],
) -> Subresource {
    Subresource { name, kind: GroupVersionKind { group, version, kind }, verbs }
}

/// A row with what most resources have; the rest is said by functional update.
macro_rules! resource {
    ($scope:ident $group:literal $version:literal $kind:literal $plural:literal $singular:literal $($field:ident: $value:expr),*) => {
        #[allow(clippy::needless_update)]
        Resource {
            $($field: $value,)*
            ..Resource {
                group: $group,
                version: $version,
                kind: $kind,
                list_kind: concat!($kind, "List"),
                plural: $plural,
                singular: $singular,
                short_names: &[],
                categories: &[],
                scope: Scope::$scope,
                verbs: STANDARD,
                subresources: &[],
                storage: Storage::At { group: $group, version: $version },
                status: false,
                generation: false,
                preferred: true,
                create_on_update: false,
                unconditional_update: true,
                custom: false,
                selectable_fields: &[],
            }
        }
    };
}

pub(super) const RESOURCES: &[Resource] = &[
    resource!(Namespaced "" "v1" "Binding" "bindings" "binding" verbs: CREATE, storage: Storage::Transient),
    resource!(Cluster "" "v1" "ComponentStatus" "componentstatuses" "componentstatus" short_names: &["cs"], verbs: READ, storage: Storage::Transient),
    resource!(Namespaced "" "v1" "ConfigMap" "configmaps" "configmap" short_names: &["cm"]),
    resource!(Namespaced "" "v1" "Endpoints" "endpoints" "endpoints" short_names: &["ep"], create_on_update: true),
    resource!(Namespaced "" "v1" "Event" "events" "event" short_names: &["ev"], create_on_update: true),
    resource!(Namespaced "" "v1" "LimitRange" "limitranges" "limitrange" short_names: &["limits"], create_on_update: true),
    resource!(Cluster "" "v1" "Namespace" "namespaces" "namespace" short_names: &["ns"], verbs: NO_COLLECTION, subresources: &[sub("finalize", "", "v1", "Namespace", UPDATE), sub("status", "", "v1", "Namespace", STATUS)], status: true),
    resource!(Cluster "" "v1" "Node" "nodes" "node" short_names: &["no"], subresources: &[sub("proxy", "", "v1", "NodeProxyOptions", PROXY), sub("status", "", "v1", "Node", STATUS)], status: true),
    resource!(Namespaced "" "v1" "PersistentVolumeClaim" "persistentvolumeclaims" "persistentvolumeclaim" short_names: &["pvc"], subresources: &[sub("status", "", "v1", "PersistentVolumeClaim", STATUS)], status: true),
    resource!(Cluster "" "v1" "PersistentVolume" "persistentvolumes" "persistentvolume" short_names: &["pv"], subresources: &[sub("status", "", "v1", "PersistentVolume", STATUS)], status: true),
    resource!(Namespaced "" "v1" "Pod" "pods" "pod" short_names: &["po"], categories: ALL, subresources: &[sub("attach", "", "v1", "PodAttachOptions", CONNECT), sub("binding", "", "v1", "Binding", CREATE), sub("ephemeralcontainers", "", "v1", "Pod", STATUS), sub("eviction", "policy", "v1", "Eviction", CREATE), sub("exec", "", "v1", "PodExecOptions", CONNECT), sub("log", "", "v1", "Pod", GET), sub("portforward", "", "v1", "PodPortForwardOptions", CONNECT), sub("proxy", "", "v1", "PodProxyOptions", PROXY), sub("resize", "", "v1", "Pod", STATUS), sub("status", "", "v1", "Pod", STATUS)], status: true, generation: true),
    resource!(Namespaced "" "v1" "PodTemplate" "podtemplates" "podtemplate" generation: true),
    resource!(Namespaced "" "v1" "ReplicationController" "replicationcontrollers" "replicationcontroller" short_names: &["rc"], categories: ALL, subresources: &[SCALE, sub("status", "", "v1", "ReplicationController", STATUS)], status: true, generation: true),
    resource!(Namespaced "" "v1" "ResourceQuota" "resourcequotas" "resourcequota" short_names: &["quota"], subresources: &[sub("status", "", "v1", "ResourceQuota", STATUS)], status: true),
    resource!(Namespaced "" "v1" "Secret" "secrets" "secret" ),
    resource!(Namespaced "" "v1" "ServiceAccount" "serviceaccounts" "serviceaccount" short_names: &["sa"], subresources: &[sub("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE)]),
    resource!(Namespaced "" "v1" "Service" "services" "service" short_names: &["svc"], categories: ALL, subresources: &[sub("proxy", "", "v1", "ServiceProxyOptions", PROXY), sub("status", "", "v1", "Service", STATUS)], status: true, create_on_update: true),
    resource!(Cluster "apiregistration.k8s.io" "v1" "APIService" "apiservices" "apiservice" categories: API_EXTENSIONS, subresources: &[sub("status", "apiregistration.k8s.io", "v1", "APIService", STATUS)], status: true, unconditional_update: false),
    resource!(Namespaced "apps" "v1" "ControllerRevision" "controllerrevisions" "controllerrevision" ),
    resource!(Namespaced "apps" "v1" "DaemonSet" "daemonsets" "daemonset" short_names: &["ds"], categories: ALL, subresources: &[sub("status", "apps", "v1", "DaemonSet", STATUS)], status: true, generation: true),
    resource!(Namespaced "apps" "v1" "Deployment" "deployments" "deployment" short_names: &["deploy"], categories: ALL, subresources: &[SCALE, sub("status", "apps", "v1", "Deployment", STATUS)], status: true, generation: true),
    resource!(Namespaced "apps" "v1" "ReplicaSet" "replicasets" "replicaset" short_names: &["rs"], categories: ALL, subresources: &[SCALE, sub("status", "apps", "v1", "ReplicaSet", STATUS)], status: true, generation: true),
    resource!(Namespaced "apps" "v1" "StatefulSet" "statefulsets" "statefulset" short_names: &["sts"], categories: ALL, subresources: &[SCALE, sub("status", "apps", "v1", "StatefulSet", STATUS)], status: true, generation: true),
    resource!(Namespaced "events.k8s.io" "v1" "Event" "events" "event" short_names: &["ev"], storage: Storage::At { group: "", version: "v1" }, create_on_update: true),
    resource!(Cluster "authentication.k8s.io" "v1" "SelfSubjectReview" "selfsubjectreviews" "selfsubjectreview" verbs: CREATE, storage: Storage::Transient),
    resource!(Cluster "authentication.k8s.io" "v1" "TokenReview" "tokenreviews" "tokenreview" verbs: CREATE, storage: Storage::Transient),
    resource!(Namespaced "authorization.k8s.io" "v1" "LocalSubjectAccessReview" "localsubjectaccessreviews" "localsubjectaccessreview" verbs: CREATE, storage: Storage::Transient),
    resource!(Cluster "authorization.k8s.io" "v1" "SelfSubjectAccessReview" "selfsubjectaccessreviews" "selfsubjectaccessreview" verbs: CREATE, storage: Storage::Transient),
    resource!(Cluster "authorization.k8s.io" "v1" "SelfSubjectRulesReview" "selfsubjectrulesreviews" "selfsubjectrulesreview" verbs: CREATE, storage: Storage::Transient),
    resource!(Cluster "authorization.k8s.io" "v1" "SubjectAccessReview" "subjectaccessreviews" "subjectaccessreview" verbs: CREATE, storage: Storage::Transient),
    resource!(Namespaced "autoscaling" "v2" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler" short_names: &["hpa"], categories: ALL, subresources: &[sub("status", "autoscaling", "v2", "HorizontalPodAutoscaler", STATUS)], status: true),
    resource!(Namespaced "autoscaling" "v1" "HorizontalPodAutoscaler" "horizontalpodautoscalers" "horizontalpodautoscaler" short_names: &["hpa"], categories: ALL, subresources: &[sub("status", "autoscaling", "v1", "HorizontalPodAutoscaler", STATUS)], status: true, storage: Storage::At { group: "autoscaling", version: "v2" }, preferred: false),
    resource!(Namespaced "batch" "v1" "CronJob" "cronjobs" "cronjob" short_names: &["cj"], categories: ALL, subresources: &[sub("status", "batch", "v1", "CronJob", STATUS)], status: true, generation: true),
    resource!(Namespaced "batch" "v1" "Job" "jobs" "job" categories: ALL, subresources: &[sub("status", "batch", "v1", "Job", STATUS)], status: true, generation: true),
    resource!(Cluster "certificates.k8s.io" "v1" "CertificateSigningRequest" "certificatesigningrequests" "certificatesigningrequest" short_names: &["csr"], subresources: &[sub("approval", "certificates.k8s.io", "v1", "CertificateSigningRequest", STATUS), sub("status", "certificates.k8s.io", "v1", "CertificateSigningRequest", STATUS)], status: true),
    resource!(Cluster "networking.k8s.io" "v1" "IngressClass" "ingressclasses" "ingressclass" generation: true),
    resource!(Namespaced "networking.k8s.io" "v1" "Ingress" "ingresses" "ingress" short_names: &["ing"], subresources: &[sub("status", "networking.k8s.io", "v1", "Ingress", STATUS)], status: true, generation: true),
    resource!(Cluster "networking.k8s.io" "v1" "IPAddress" "ipaddresses" "ipaddress" short_names: &["ip"]),
    resource!(Namespaced "networking.k8s.io" "v1" "NetworkPolicy" "networkpolicies" "networkpolicy" short_names: &["netpol"], generation: true),
    resource!(Cluster "networking.k8s.io" "v1" "ServiceCIDR" "servicecidrs" "servicecidr" subresources: &[sub("status", "networking.k8s.io", "v1", "ServiceCIDR", STATUS)], status: true),
    resource!(Namespaced "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets" "poddisruptionbudget" short_names: &["pdb"], subresources: &[sub("status", "policy", "v1", "PodDisruptionBudget", STATUS)], status: true, generation: true, unconditional_update: false),
    resource!(Cluster "rbac.authorization.k8s.io" "v1" "ClusterRoleBinding" "clusterrolebindings" "clusterrolebinding" create_on_update: true),
    resource!(Cluster "rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" "clusterrole" create_on_update: true),
    resource!(Namespaced "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" "rolebinding" create_on_update: true),
    resource!(Namespaced "rbac.authorization.k8s.io" "v1" "Role" "roles" "role" create_on_update: true),
    resource!(Cluster "storage.k8s.io" "v1" "CSIDriver" "csidrivers" "csidriver" generation: true),
    resource!(Cluster "storage.k8s.io" "v1" "CSINode" "csinodes" "csinode" ),
    resource!(Namespaced "storage.k8s.io" "v1" "CSIStorageCapacity" "csistoragecapacities" "csistoragecapacity" ),
    resource!(Cluster "storage.k8s.io" "v1" "StorageClass" "storageclasses" "storageclass" short_names: &["sc"]),
    resource!(Cluster "storage.k8s.io" "v1" "VolumeAttachment" "volumeattachments" "volumeattachment" subresources: &[sub("status", "storage.k8s.io", "v1", "VolumeAttachment", STATUS)], status: true),
    resource!(Cluster "admissionregistration.k8s.io" "v1" "MutatingWebhookConfiguration" "mutatingwebhookconfigurations" "mutatingwebhookconfiguration" categories: API_EXTENSIONS, generation: true, unconditional_update: false),
    resource!(Cluster "admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicy" "validatingadmissionpolicies" "validatingadmissionpolicy" categories: API_EXTENSIONS, subresources: &[sub("status", "admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", STATUS)], status: true, generation: true, unconditional_update: false),
    resource!(Cluster "admissionregistration.k8s.io" "v1" "ValidatingAdmissionPolicyBinding" "validatingadmissionpolicybindings" "validatingadmissionpolicybinding" categories: API_EXTENSIONS, generation: true, unconditional_update: false),
    resource!(Cluster "admissionregistration.k8s.io" "v1" "ValidatingWebhookConfiguration" "validatingwebhookconfigurations" "validatingwebhookconfiguration" categories: API_EXTENSIONS, generation: true, unconditional_update: false),
    resource!(Cluster "apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" "customresourcedefinition" short_names: &["crd", "crds"], categories: API_EXTENSIONS, subresources: &[sub("status", "apiextensions.k8s.io", "v1", "CustomResourceDefinition", STATUS)], status: true, generation: true, unconditional_update: false),
    resource!(Cluster "scheduling.k8s.io" "v1" "PriorityClass" "priorityclasses" "priorityclass" short_names: &["pc"], generation: true),
    resource!(Namespaced "coordination.k8s.io" "v1" "Lease" "leases" "lease" create_on_update: true, unconditional_update: false),
    resource!(Cluster "node.k8s.io" "v1" "RuntimeClass" "runtimeclasses" "runtimeclass" ),
    resource!(Namespaced "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" "endpointslice" generation: true),
    resource!(Cluster "flowcontrol.apiserver.k8s.io" "v1" "FlowSchema" "flowschemas" "flowschema" subresources: &[sub("status", "flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", STATUS)], status: true, generation: true, unconditional_update: false),
    resource!(Cluster "flowcontrol.apiserver.k8s.io" "v1" "PriorityLevelConfiguration" "prioritylevelconfigurations" "prioritylevelconfiguration" subresources: &[sub("status", "flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", STATUS)], status: true, generation: true, unconditional_update: false),
    resource!(Cluster "metrics.k8s.io" "v1beta1" "NodeMetrics" "nodes" "" verbs: READ, storage: Storage::Transient),
    resource!(Namespaced "metrics.k8s.io" "v1beta1" "PodMetrics" "pods" "" verbs: READ, storage: Storage::Transient),
];
