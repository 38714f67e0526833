{{- /* Values that do not go together: helm stops before it changes anything. */ -}}
{{- define "gateway.check" -}}
{{- $gateway := .Values.gateway -}}
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
