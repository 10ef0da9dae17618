{{- define "secateur.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: secateur
{{- end }}

{{- /* Takes (list $ "api"): what names a part and selects its pods. */ -}}
{{- define "secateur.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: secateur
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "secateur.account" -}}
{{- if .Values.serviceAccount.create }}{{ default .Release.Name .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- /* Takes (list $ .Values.image.api). */ -}}
{{- define "secateur.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{ $image.repository }}:{{ default $root.Chart.AppVersion $image.tag }}
{{- end }}

{{- /* Of a hook that the migration needs: there before it, gone after it. */ -}}
{{- define "secateur.beforeMigration" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: "-5"
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{- /* A value as text. Helm reads whole numbers of a file as floats, and would write large ones with an exponent. */ -}}
{{- define "secateur.number" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{- define "secateur.settings" -}}
SECATEUR_STORE_URL: {{ required "store.url: s3://bucket/prefix" .Values.store.url | quote }}
{{- with .Values.store.s3Endpoint }}
SECATEUR_S3_ENDPOINT: {{ . | quote }}
{{- end }}
SECATEUR_S3_REGION: {{ .Values.store.s3Region | quote }}
{{- with .Values.store.s3PublicEndpoint }}
SECATEUR_S3_PUBLIC_ENDPOINT: {{ . | quote }}
{{- end }}
SECATEUR_PRESIGN_DOWNLOADS: {{ .Values.store.presignDownloads | quote }}
SECATEUR_WORK_DIR: /var/lib/secateur
SECATEUR_HEALTH_DIR: /tmp
SECATEUR_METRICS_LISTEN: 0.0.0.0:9464
SECATEUR_LOG_FORMAT: {{ .Values.logs.format }}
{{- with .Values.tracing.endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ . | quote }}
{{- end }}
{{- range $name, $value := .Values.tracing.environment }}
{{ $name }}: {{ include "secateur.number" $value | quote }}
{{- end }}
{{- if .Values.models.existingClaim }}
SECATEUR_MODEL_ROOTS: /models
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "secateur.number" $value | quote }}
{{- end }}
{{- end }}

{{- /* Takes (list $ "api"). */ -}}
{{- define "secateur.environment" -}}
{{- $root := index . 0 -}}
envFrom:
  - secretRef: {name: {{ required "existingSecret: name a secret with SECATEUR_DATABASE_URL, SECATEUR_BROKER_URL and SECATEUR_SECRET" $root.Values.existingSecret | quote }}}
  - configMapRef: {name: {{ $root.Release.Name }}{{ if eq (index . 1) "migrate" }}-migrate{{ end }}-settings}
{{- end }}

{{- define "secateur.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* What every pod has. Takes (list $ "api"). */ -}}
{{- define "secateur.pod" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ include "secateur.account" $root }}{{ if and $root.Values.serviceAccount.create (eq (index . 1) "migrate") }}-migrate{{ end }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "secateur.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "secateur.selector" . | nindent 8 }}
{{- end }}

{{- /* Takes (list $ "worker-cpu" .Values.workerCpu): the volumes of a pod with a work folder of its own. */ -}}
{{- define "secateur.workVolumes" -}}
{{- $root := index . 0 -}}{{- $part := index . 1 -}}
- {name: tmp, emptyDir: {}}
- name: work
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        {{- with $part.work.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ $part.work.size }}}}
{{- with $root.Values.models.existingClaim }}
- {name: models, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
{{- end }}
{{- end }}

{{- define "secateur.workMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: work, mountPath: /var/lib/secateur}
{{- if .Values.models.existingClaim }}
- {name: models, mountPath: /models, readOnly: true}
{{- end }}
{{- end }}

{{- define "secateur.template" -}}
{{- $root := index . 0 -}}
metadata:
  labels: {{- include "secateur.selector" . | nindent 4 }}
  annotations:
    checksum/settings: {{ include "secateur.settings" $root | sha256sum }}
    {{- with $root.Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- /* Of the S3 server; Amazon's has no endpoint of its own. */ -}}
{{- define "secateur.storePort" -}}
{{- include "secateur.portOf" (default "https://amazon" .Values.store.s3Endpoint) }}
{{- end }}

{{- /* Takes a URL. */ -}}
{{- define "secateur.portOf" -}}
{{- $endpoint := urlParse . -}}
{{- default (ternary "80" "443" (eq $endpoint.scheme "http")) (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $endpoint.host)) }}
{{- end }}

{{- /* Jobs of a project without a quota of its own that may run at once, for SQL. */ -}}
{{- define "secateur.runningJobs" -}}
{{- with get .Values.settings "SECATEUR_QUOTA_RUNNING_JOBS" }}{{ int64 . }}{{ else }}NULL{{ end }}
{{- end }}
