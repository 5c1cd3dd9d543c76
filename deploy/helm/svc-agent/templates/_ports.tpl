{{- define "svc-agent.metricsPort" -}}
{{ ternary 10249 20249 (eq .Values.kubeProxy "replace") }}
{{- end }}
{{- define "svc-agent.healthPort" -}}
{{ ternary 10256 20256 (eq .Values.kubeProxy "replace") }}
{{- end }}
