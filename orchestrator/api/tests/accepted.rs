//! Manifests as people write them pass the whole way: decode, default, fill in metadata, validate; and an update
//! that changes nothing is accepted and changes nothing.
#![allow(clippy::unwrap_used, reason = "a test ends where something is missing")]

use catamaran_api::decode::{self, ContentType, Strictness};
use catamaran_api::kind::{self, Resource};
use catamaran_api::meta::{self, Creation};
use catamaran_api::validate::{self, Subresource};
use catamaran_api::{defaults, name, time};
use serde_json::Value;

const MANIFESTS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {kubernetes.io/hostname: node-1}}
spec: {podCIDR: 10.128.0.0/24, podCIDRs: [10.128.0.0/24]}
status: {capacity: {cpu: "2", memory: 1Gi, pods: "110"}}
---
apiVersion: v1
kind: Pod
metadata: {generateName: p-}
spec:
  initContainers:
  - {name: init, image: busybox, command: [sh, -c, "true"]}
  - {name: side, image: busybox, restartPolicy: Always, readinessProbe: {tcpSocket: {port: 80}}}
  containers:
  - name: main
    image: localhost:5000/hello:1
    args: ["--x"]
    ports: [{containerPort: 8080, name: http}]
    env:
    - {name: A, value: b}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    - {name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}
    envFrom: [{configMapRef: {name: c}}]
    resources: {requests: {cpu: 100m, memory: 64Mi}, limits: {memory: 64Mi}}
    livenessProbe: {httpGet: {port: http}}
    lifecycle: {preStop: {exec: {command: [sleep, "1"]}}}
    securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false}
    volumeMounts: [{name: tmp, mountPath: /tmp}, {name: all, mountPath: /all, subPath: a/b}]
  volumes:
  - {name: tmp, emptyDir: {sizeLimit: 1Mi}}
  - {name: all, projected: {sources: [{serviceAccountToken: {path: token}}, {configMap: {name: c}}, {downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}}]}}
  - {name: host, hostPath: {path: /var/log}}
  tolerations: [{operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
  runtimeClassName: wasm
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: web-abc}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: db}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {hostNetwork: true, containers: [{name: a, image: a, ports: [{containerPort: 80}]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: a}]}}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: often}
spec: {schedule: "*/5 * * * *", jobTemplate: {spec: {template: {spec: {restartPolicy: OnFailure, containers: [{name: a, image: a}]}}}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: example.com}
---
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets: [{addresses: [{ip: 10.128.0.5}], ports: [{port: 8080}]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1}
addressType: IPv4
endpoints: [{addresses: [10.128.0.5], conditions: {ready: true}}]
ports: [{port: 8080}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
data: {a.txt: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringData: {k: v}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: v1
kind: Event
metadata: {name: e.1, namespace: default}
involvedObject: {kind: Pod, name: p, namespace: default}
reason: Started
type: Normal
message: hi
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: node-1}
spec: {holderIdentity: node-1, leaseDurationSeconds: 40}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: wasm}
handler: wasm
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: b}
spec: {minAvailable: 50%, selector: {matchLabels: {app: web}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i}
spec: {rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: policy}
spec: {podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 80}]}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "system:reader"}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}, {nonResourceURLs: [/healthz], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:reader"}
subjects: [{kind: ServiceAccount, name: robot, namespace: default}, {kind: User, name: jane}]
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
---
apiVersion: v1
kind: LimitRange
metadata: {name: l}
spec: {limits: [{type: Container, default: {cpu: 500m}, defaultRequest: {cpu: 100m}}]}
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: q}
spec: {hard: {pods: "10", requests.cpu: "4"}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: local}
provisioner: example.com/local
"#;

fn decoded(manifest: &str) -> (&'static Resource, Value) {
    let line = |field: &str| {
        let found = manifest.lines().find_map(|l| l.strip_prefix(field));
        found.unwrap_or_else(|| panic!("no {field} in {manifest}")).trim()
    };
    let (group, version) = kind::split_api_version(line("apiVersion:")).unwrap();
    let resource = kind::find_kind(group, version, line("kind:")).unwrap();
    let decoded = decode::decode(manifest.as_bytes(), ContentType::Yaml, resource, Strictness::Strict);
    (resource, decoded.unwrap_or_else(|e| panic!("{manifest}: {e}")).object)
}

fn created(manifest: &str) -> (&'static Resource, Value) {
    let (resource, mut object) = decoded(manifest);
    if meta::name(&object).is_empty() {
        let name = name::generate(meta::generate_name(&object), [1, 2, 3, 4, 5]);
        meta::set(&mut object, "name", name);
    }
    let now = time::parse("2024-05-01T10:00:00Z").unwrap();
    let namespace = if resource.namespaced() { "default" } else { "" };
    meta::prepare_create(resource, &mut object, &Creation { uid: "u", now, namespace });
    defaults::apply(resource, &mut object);
    defaults::on_create(resource, &mut object);
    (resource, object)
}

#[test]
fn usual_manifests_are_accepted() {
    let manifests: Vec<&str> = MANIFESTS.split("\n---\n").collect();
    assert!(manifests.len() > 30);
    let mut refused = Vec::new();
    for manifest in manifests {
        let (resource, object) = created(manifest);
        let errors = validate::create(resource, &object);
        refused.extend(errors.iter().map(|e| format!("{} {e}", resource.plural)));
        let mut again = object.clone();
        meta::prepare_update(resource, &mut again, &object);
        if !meta::unchanged(&again, &object) {
            refused.push(format!("{}: an update without changes changes something", resource.plural));
        }
        let errors = validate::update(resource, &again, &object, Subresource::Main);
        refused.extend(errors.iter().map(|e| format!("update of {} {e}", resource.plural)));
    }
    assert!(refused.is_empty(), "{refused:#?}");
}
