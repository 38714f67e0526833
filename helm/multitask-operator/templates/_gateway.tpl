{{- /* Also the name of its Service: programs call it by that name. */ -}}
{{- define "gateway.name" -}}
{{ .Release.Name | trunc 55 | trimSuffix "-" }}-gateway
{{- end }}

{{- /* Another app.kubernetes.io/name than the operator's, so that neither selects the pods of the other. */ -}}
{{- define "gateway.selector" -}}
app.kubernetes.io/name: multitask-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: gateway
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "gateway.host" -}}
{{ include "gateway.name" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "gateway.address" -}}
{{ include "gateway.host" . }}:{{ .Values.gateway.service.port }}
{{- end }}

{{- /* Every name that the certificate is for, as a JSON list. localhost: for kubectl port-forward. */ -}}
{{- define "gateway.dnsNames" -}}
{{- $host := include "gateway.host" . -}}
{{- $own := list (include "gateway.name" .) (printf "%s.%s" (include "gateway.name" .) .Release.Namespace) $host (printf "%s.cluster.local" $host) "localhost" -}}
{{- concat $own .Values.gateway.tls.dnsNames | uniq | toJson -}}
{{- end }}

{{- define "gateway.tlsSecret" -}}
{{- .Values.gateway.tls.secretName | default (printf "%s-tls" (include "gateway.name" .)) -}}
{{- end }}

{{- define "gateway.callersSecret" -}}
{{- .Values.gateway.callers.existingSecret | default (printf "%s-callers" (include "gateway.name" .)) -}}
{{- end }}

{{- define "gateway.labelsSecret" -}}
{{- .Values.gateway.labels.existingSecret | default (printf "%s-labels" (include "gateway.name" .)) -}}
{{- end }}

{{- /* Only with a generated key. */ -}}
{{- define "gateway.keySecret" -}}
{{ include "gateway.name" . }}-key
{{- end }}

{{- define "gateway.generatesKey" -}}
{{- and .Values.gateway.enabled .Values.gateway.callers.enabled .Values.gateway.callers.generateKey (not .Values.gateway.callers.existingSecret) -}}
{{- end }}

{{- /* Whether the pod of `helm test` has what it needs: an API key, if callers need one. */ -}}
{{- define "gateway.testable" -}}
{{- $hasKey := or (not .Values.gateway.callers.enabled) .Values.test.apiKeySecret (eq (include "gateway.generatesKey" .) "true") -}}
{{- if and .Values.gateway.enabled $hasKey }}true{{ end -}}
{{- end }}

{{- /* What the gateway reads and writes where models are. */ -}}
{{- define "gateway.rules" -}}
- apiGroups: [multitask.dev]
  resources: [taskroutes]
  verbs: [get, list, watch]
# Each gateway says which routes it follows.
- apiGroups: [multitask.dev]
  resources: [taskroutes/status]
  verbs: [patch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}
