{{- /* Values that do not go together: helm stops before it changes anything. */ -}}
{{- define "gateway.check" -}}
{{- $gateway := .Values.gateway -}}
{{- include "operator.checkPods" . -}}
{{- include "operator.checkMetadata" . -}}
{{- $tls := $gateway.tls -}}
{{- if and .Values.serving.enabled (not $gateway.enabled) -}}
{{- fail "serving.enabled needs gateway.enabled: every revision is verified through the gateway before it gets requests; for training alone set both to false" -}}
{{- end -}}
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
{{- if and $gateway.mutualTLS.enabled (eq (int $gateway.mutualTLS.port) (int $gateway.service.port)) -}}
{{- fail (printf "gateway.mutualTLS.port and gateway.service.port are both %d: give each its own" (int $gateway.service.port)) -}}
{{- end -}}
{{- include "gateway.checkCallers" . -}}
{{- $cpu := dig "requests" "cpu" "" ($gateway.resources | default dict) -}}
{{- if and $gateway.autoscaling.enabled (not $cpu) (not (dig "limits" "cpu" "" ($gateway.resources | default dict))) -}}
{{- fail "gateway.autoscaling needs gateway.resources.requests.cpu: it scales by the share of it that is used" -}}
{{- end -}}
{{- range $gateway.shortNameNamespaces -}}
{{- if and $.Values.namespaces (not (has . $.Values.namespaces)) -}}
{{- fail (printf "gateway.shortNameNamespaces: %s is not among namespaces, so that no task of it is served" .) -}}
{{- end -}}
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

{{- /* What the operator refuses in every pod: then no model would ever start. */ -}}
{{- define "operator.checkPods" -}}
{{- $places := dict "stagePods.podTemplate" .Values.stagePods.podTemplate "serving.podTemplate" .Values.serving.podTemplate -}}
{{- range $kind, $template := .Values.stagePods.podTemplates -}}
{{- $_ := set $places (printf "stagePods.podTemplates.%s" $kind) $template -}}
{{- end -}}
{{- range $place, $template := $places -}}
{{- $labels := dig "metadata" "labels" dict ($template | default dict) -}}
{{- range $label, $_ := $labels | default dict -}}
{{- if or (hasPrefix "multitask.dev/" $label) (eq $label "app.kubernetes.io/managed-by") -}}
{{- fail (printf "%s.metadata.labels: %s is a label by which the operator finds its pods; give yours another name" $place $label) -}}
{{- end -}}
{{- end -}}
{{- range list "restartPolicy" "serviceAccountName" "serviceAccount" "hostname" "subdomain" -}}
{{- if hasKey (dig "spec" dict ($template | default dict) | default dict) . -}}
{{- fail (printf "%s.spec.%s: the operator sets it; remove it" $place .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* Labels and annotations that are added to the chart's own, and that would overwrite one of these. */ -}}
{{- define "operator.checkMetadata" -}}
{{- $own := include "operator.labels" . | fromYaml -}}
{{- $added := dict "metrics.podMonitor.labels" .Values.metrics.podMonitor.labels "metrics.grafanaDashboard.labels" .Values.metrics.grafanaDashboard.labels -}}
{{- range $place, $labels := $added -}}
{{- range $label, $_ := $labels | default dict -}}
{{- if hasKey $own $label -}}
{{- fail (printf "%s: %s is a label of the chart's own; give yours another name" $place $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if hasKey (.Values.gateway.podAnnotations | default dict) "kubectl.kubernetes.io/default-container" -}}
{{- fail "gateway.podAnnotations: kubectl.kubernetes.io/default-container is the chart's own; remove it" -}}
{{- end -}}
{{- end }}

{{- /* The gateway ends at once on callers that it cannot take. */ -}}
{{- define "gateway.checkCallers" -}}
{{- $names := list -}}
{{- $keys := list -}}
{{- range .Values.gateway.callers.entries -}}
{{- if not (or .keys .certificates .serviceAccounts) -}}
{{- fail (printf "gateway.callers.entries: %s has none of keys, certificates and serviceAccounts, so nobody could be it" .name) -}}
{{- end -}}
{{- if and .certificates (not (or .keys .serviceAccounts $.Values.gateway.mutualTLS.enabled)) -}}
{{- fail (printf "gateway.callers.entries: %s has certificates alone, which only the port of gateway.mutualTLS asks for; set gateway.mutualTLS.enabled" .name) -}}
{{- end -}}
{{- if and .serviceAccounts (not (or .keys .certificates $.Values.gateway.tokenReviews)) -}}
{{- fail (printf "gateway.callers.entries: %s has serviceAccounts alone, whose tokens gateway.tokenReviews checks; set it to true" .name) -}}
{{- end -}}
{{- if has .name $names -}}
{{- fail (printf "gateway.callers.entries: %s is there twice; list all its keys in one entry" .name) -}}
{{- end -}}
{{- range .keys -}}
{{- if has . $keys -}}
{{- fail "gateway.callers.entries: two callers have the same key; give each its own" -}}
{{- end -}}
{{- $keys = append $keys . -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end }}
