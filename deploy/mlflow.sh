#!/usr/bin/env bash
# MLflow's server with a login, on port 5000 of one address:
#   deploy/mlflow.sh ADDRESS DATABASE ARTIFACTS
# DATABASE holds the runs and the users: sqlite:////home/me/mlflow.db, or postgresql://USER@HOST/NAME with PGPASSWORD.
# ARTIFACTS is a folder or a bucket's URI. The login is made at the first start from the variables that clients use:
# MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, at least 12 characters. MLFLOW_PORT names another port.
set -euo pipefail
if (($# != 3)); then
    echo "usage: deploy/mlflow.sh ADDRESS DATABASE ARTIFACTS" >&2
    exit 2
fi
export MLFLOW_AUTH_ADMIN_USERNAME="${MLFLOW_TRACKING_USERNAME:?set it to the login that clients use}"
export MLFLOW_AUTH_ADMIN_PASSWORD="${MLFLOW_TRACKING_PASSWORD:?set it to the password that clients use}"
unset MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD MLFLOW_TRACKING_URI

umask 077
MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
export MLFLOW_AUTH_CONFIG_PATH
trap 'rm -f "$MLFLOW_AUTH_CONFIG_PATH"' EXIT
# A password is checked once a minute and process: MLflow's hash takes most of a small request's time.
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $2
auth_cache_ttl_seconds = 60
END
MLFLOW_FLASK_SERVER_SECRET_KEY=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_BACKEND_STORE_URI="$2"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
mlflow server --app-name basic-auth --host "$1" --port "${MLFLOW_PORT:-5000}" --workers 1 \
    --artifacts-destination "$3" &
trap 'kill $!; wait $!; rm -f "$MLFLOW_AUTH_CONFIG_PATH"' INT TERM
wait $!
