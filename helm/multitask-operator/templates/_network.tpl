{{- /* Proxy, certificates and hub of pods that reach out of the cluster, as a YAML list of environment variables. */ -}}
{{- define "network.env" -}}
{{- with .Values.proxy.http }}
- {name: HTTP_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with .Values.proxy.https }}
- {name: HTTPS_PROXY, value: {{ . | quote }}}
{{- end }}
{{- if or .Values.proxy.http .Values.proxy.https }}
# Never through the proxy: the cluster's own services.
- {name: NO_PROXY, value: {{ concat (list "localhost" "127.0.0.1" ".svc" ".cluster.local" "$(KUBERNETES_SERVICE_HOST)") .Values.proxy.except | join "," | quote }}}
{{- end }}
{{- if .Values.caBundle.configMap }}
{{- range list "SSL_CERT_FILE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" }}
- {name: {{ . }}, value: /etc/multitask-ca/ca.crt}
{{- end }}
{{- end }}
{{- with .Values.hubEndpoint }}
- {name: HF_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- /*
A pod template with that environment in one container, as JSON; what the values set themselves stays. Takes (dict "root" $
"template" TEMPLATE "list" "containers" "container" NAME).
*/ -}}
{{- define "network.template" -}}
{{- $template := deepCopy .template -}}
{{- $env := include "network.env" .root | fromYamlArray -}}
{{- $ca := .root.Values.caBundle -}}
{{- if $env -}}
{{- $spec := $template.spec | default dict -}}
{{- $container := dict "name" .container -}}
{{- $others := list -}}
{{- range get $spec .list | default list -}}
{{- if eq .name $.container -}}{{- $container = . -}}{{- else -}}{{- $others = append $others . -}}{{- end -}}
{{- end -}}
{{- $own := $container.env | default list -}}
{{- $names := list -}}
{{- range $own -}}{{- $names = append $names .name -}}{{- end -}}
{{- range $env -}}{{- if not (has .name $names) -}}{{- $own = append $own . -}}{{- end -}}{{- end -}}
{{- $_ := set $container "env" $own -}}
{{- if $ca.configMap -}}
{{- $mount := dict "name" "multitask-ca" "mountPath" "/etc/multitask-ca" "readOnly" true -}}
{{- $_ := set $container "volumeMounts" (append ($container.volumeMounts | default list) $mount) -}}
{{- $items := list (dict "key" $ca.key "path" "ca.crt") -}}
{{- $volume := dict "name" "multitask-ca" "configMap" (dict "name" $ca.configMap "items" $items) -}}
{{- $_ := set $spec "volumes" (append ($spec.volumes | default list) $volume) -}}
{{- end -}}
{{- $_ := set $spec .list (append $others $container) -}}
{{- $_ := set $template "spec" $spec -}}
{{- end -}}
{{- toJson $template -}}
{{- end }}

{{- define "operator.stagePods" -}}
{{- $template := include "network.template" (dict "root" . "template" .Values.stagePods.podTemplate "list" "containers" "container" "trainer") | fromJson -}}
{{- dict "podTemplate" $template "podTemplates" .Values.stagePods.podTemplates | toJson -}}
{{- end }}

{{- define "operator.servingPods" -}}
{{- $template := include "network.template" (dict "root" . "template" .Values.serving.podTemplate "list" "initContainers" "container" "fetch") | fromJson -}}
{{- dict "podTemplate" $template | toJson -}}
{{- end }}
