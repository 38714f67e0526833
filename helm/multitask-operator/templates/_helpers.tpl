{{- define "operator.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "operator.labels" -}}
{{ include "operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Reference of an image. Takes (dict "image" IMAGE "root" $): IMAGE as in the values. */ -}}
{{- define "operator.image" -}}
{{- $image := .image -}}
{{- with .root.Values.imageRegistry }}{{ . }}/{{ end -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- /* "true" or "false": whether pods name their user and group. */ -}}
{{- define "operator.fixedUser" -}}
{{- $openshift := .Values.openshift -}}
{{- if eq (toString $openshift) "auto" -}}
{{- $openshift = .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}
{{- end -}}
{{ not $openshift }}
{{- end }}

{{- /*
The permissions of the operator in the namespaces of models. It reads no Secrets. Kubernetes lets it grant only what it
has itself, so it has get and patch on ConfigMaps, which it grants to the stage pods.
*/ -}}
{{- define "operator.rules" -}}
- apiGroups: [multitask.dev]
  resources: [multitaskmodels]
  # patch: to set and remove its finalizer
  verbs: [get, list, watch, patch]
- apiGroups: [multitask.dev]
  resources: [multitaskmodels/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [multitask.dev]
  resources: [taskroutes]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [multitask.dev]
  resources: [taskroutes/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch]
# Often only an Event says why a Job gets no pod or a pod does not start.
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# Nothing is created in a namespace that is being deleted. In a Role this allows to read its own namespace only.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end }}

{{- /* The same, and PodGroups where the operator makes some. */ -}}
{{- define "operator.allRules" -}}
{{ include "operator.rules" . }}
{{- with get (dict "Coscheduling" "scheduling.x-k8s.io" "Volcano" "scheduling.volcano.sh") .Values.gangScheduling }}
- apiGroups: [{{ . }}]
  resources: [podgroups]
  verbs: [get, create, delete]
{{- end }}
{{- end }}
