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

{{- /* Values that do not go together: helm stops before it changes anything. */ -}}
{{- define "gateway.check" -}}
{{- $gateway := .Values.gateway -}}
{{- $tls := $gateway.tls -}}
{{- if $gateway.enabled -}}
{{- if and (eq $tls.mode "Secret") (not $tls.secretName) -}}
{{- fail "gateway.tls.mode Secret needs gateway.tls.secretName: a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if and (eq $tls.mode "CertManager") (not $tls.certManager.issuerRef.name) -}}
{{- fail "gateway.tls.mode CertManager needs gateway.tls.certManager.issuerRef.name: an Issuer or ClusterIssuer" -}}
{{- end -}}
{{- if and (eq $tls.mode "None") $gateway.mutualTLS.enabled -}}
{{- fail "gateway.mutualTLS needs TLS: set gateway.tls.mode to Generated, CertManager or Secret" -}}
{{- end -}}
{{- if and (eq $tls.mode "Generated") $gateway.mutualTLS.enabled -}}
{{- fail "gateway.mutualTLS with gateway.tls.mode Generated: the key of that authority is not kept, so no caller could get a certificate of it; use CertManager or Secret" -}}
{{- end -}}
{{- if and $gateway.callers.existingSecret $gateway.callers.entries -}}
{{- fail "gateway.callers has both existingSecret and entries: put the entries into the Secret" -}}
{{- end -}}
{{- if and $gateway.callers.enabled (not $gateway.callers.generateKey) (not $gateway.callers.existingSecret) (not $gateway.callers.entries) -}}
{{- fail "gateway.callers lets nobody call: set generateKey, existingSecret or entries, or enabled to false" -}}
{{- end -}}
{{- if and $gateway.mutualTLS.enabled (not $gateway.callers.enabled) -}}
{{- fail "gateway.mutualTLS without gateway.callers.enabled would let every certificate call everything" -}}
{{- end -}}
{{- if and $gateway.autoscaling.enabled (lt (int $gateway.autoscaling.maxReplicas) (int $gateway.autoscaling.minReplicas)) -}}
{{- fail "gateway.autoscaling.maxReplicas is less than minReplicas" -}}
{{- end -}}
{{- if and $gateway.grpcRoute.enabled (not $gateway.grpcRoute.parentRefs) -}}
{{- fail "gateway.grpcRoute needs parentRefs: the Gateway that it belongs to, as [{name: NAME, namespace: NAMESPACE}]" -}}
{{- end -}}
{{- if and $gateway.callers.enabled (not $gateway.tokenReviews) .Values.serving.enabled -}}
{{- fail "gateway.tokenReviews false with gateway.callers.enabled: the Job that verifies a revision could not call the gateway" -}}
{{- end -}}
{{- end -}}
{{- end }}
