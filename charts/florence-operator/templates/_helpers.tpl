{{- define "florence-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "florence-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "florence-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "florence-operator.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "florence-operator.selector" -}}
app.kubernetes.io/name: {{ include "florence-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "florence-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: {{ include "florence-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: florence
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "florence-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "florence-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "florence-operator.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "florence-operator.tlsSecret" -}}
{{- default (printf "%s-tls" (include "florence-operator.fullname" .)) .Values.certificates.existingSecret }}
{{- end }}

{{/* Whether the operator makes its certificates itself: "true" or nothing. */}}
{{- define "florence-operator.selfMade" -}}
{{- if not (or .Values.certificates.certManager.enabled .Values.certificates.existingSecret) }}true{{ end }}
{{- end }}

{{/* The operator's settings: the user's, and what follows from the rest of the values. */}}
{{- define "florence-operator.config" -}}
{{- $fullname := include "florence-operator.fullname" . }}
{{- $selfMade := eq (include "florence-operator.selfMade" .) "true" }}
{{- $own := dict
  "apiVersion" "operator.florence.dev/v1alpha1"
  "kind" "OperatorConfiguration"
  "watchNamespaces" .Values.watchNamespaces
  "leaderElection" (dict "leaseName" $fullname)
  "certificates" (dict "selfMade" $selfMade "secret" (include "florence-operator.tlsSecret" .))
  "webhook" (dict "enabled" .Values.webhook.enabled "configuration" $fullname "injectCa" (and $selfMade .Values.webhook.enabled))
  "progress" (dict "url" (default (printf "https://%s.%s.svc:8443" $fullname .Release.Namespace) (dig "progress" "url" "" .Values.config)))
}}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) $own) }}
{{- end }}

{{/* Refuses values that contradict each other. */}}
{{- define "florence-operator.check" -}}
{{- if and .Values.certificates.certManager.enabled .Values.certificates.existingSecret }}
{{- fail "certificates: certManager.enabled and existingSecret exclude each other: set one of them" }}
{{- end }}
{{- if and .Values.certificates.caBundle (not .Values.certificates.existingSecret) }}
{{- fail "certificates.caBundle: is the CA of existingSecret: set that too, or leave it out" }}
{{- end }}
{{- if and .Values.certificates.existingSecret .Values.webhook.enabled (not .Values.certificates.caBundle) }}
{{- fail "certificates.caBundle: the webhook needs the CA of existingSecret, in base64" }}
{{- end }}
{{- if and (eq .Values.rbac.scope "namespaced") (not .Values.watchNamespaces) }}
{{- fail "watchNamespaces: rbac.scope namespaced needs at least one namespace" }}
{{- end }}
{{- if and (eq .Values.rbac.scope "cluster") .Values.watchNamespaces }}
{{- fail "watchNamespaces: rbac.scope cluster gives rights in all namespaces: set it to namespaced, or leave watchNamespaces out" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (eq (dig "leaderElection" "enabled" true .Values.config) false) }}
{{- fail "config.leaderElection.enabled: false needs replicas: 1, or two operators would run the same jobs" }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
{{- fail "serviceAccount.name: is required with serviceAccount.create: false" }}
{{- end }}
{{- if and .Values.jobNetworkPolicy.enabled (not .Values.jobNetworkPolicy.namespaces) (not .Values.watchNamespaces) }}
{{- fail "jobNetworkPolicy.namespaces: name the namespaces of the jobs" }}
{{- end }}
{{- end }}
