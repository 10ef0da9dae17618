/** Fields of forms, each with its label, its hint and what the service says against it. */
import type { ComponentChildren, JSX } from "preact";
import { useId } from "preact/hooks";

interface Field {
  label: string;
  hint?: ComponentChildren;
  /** What is wrong with it. */
  fault?: string | undefined;
}

type InputProperties = Field &
  Omit<JSX.IntrinsicElements["input"], "label" | "value" | "onInput"> & { value: string; onValue(value: string): void };

export function Input({ label, hint, fault, onValue, ...rest }: InputProperties) {
  return (
    <Frame label={label} hint={hint} fault={fault}>
      {(marks) => <input {...rest} {...marks} onInput={(event) => onValue(event.currentTarget.value)} />}
    </Frame>
  );
}

export interface Choice {
  value: string;
  label?: string;
}

type SelectProperties = Field &
  Omit<JSX.IntrinsicElements["select"], "label" | "value" | "onChange"> & {
    value: string;
    choices: readonly Choice[];
    onValue(value: string): void;
  };

export function Select({ label, hint, fault, choices, value, onValue, ...rest }: SelectProperties) {
  return (
    <Frame label={label} hint={hint} fault={fault}>
      {(marks) => (
        <select {...rest} {...marks} value={value} onChange={(event) => onValue(event.currentTarget.value)}>
          {choices.map((choice) => (
            <option value={choice.value} selected={choice.value === value}>
              {choice.label ?? choice.value}
            </option>
          ))}
        </select>
      )}
    </Frame>
  );
}

export function Check({
  label,
  hint,
  checked,
  onValue,
  disabled,
}: {
  label: string;
  hint?: ComponentChildren;
  checked: boolean;
  disabled?: boolean;
  onValue(value: boolean): void;
}) {
  return (
    <label class="check">
      <input
        type="checkbox"
        checked={checked}
        disabled={disabled}
        onChange={(event) => onValue(event.currentTarget.checked)}
      />
      <span>
        {label}
        {hint && <span class="hint">{hint}</span>}
      </span>
    </label>
  );
}

interface Marks {
  id: string;
  "aria-invalid"?: "true";
  "aria-describedby"?: string;
}

function Frame({ label, hint, fault, children }: Field & { children(marks: Marks): ComponentChildren }) {
  const id = useId();
  const described = [hint && `${id}-hint`, fault && `${id}-fault`].filter(Boolean).join(" ");
  const marks: Marks = { id };
  if (fault) marks["aria-invalid"] = "true";
  if (described) marks["aria-describedby"] = described;
  return (
    <div class="field">
      <label for={id}>{label}</label>
      {children(marks)}
      {fault && (
        <p class="fault" id={`${id}-fault`}>
          {fault}
        </p>
      )}
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
    </div>
  );
}

interface FilePickerProperties extends Field {
  files: readonly File[];
  onFiles(files: readonly File[]): void;
  accept?: string;
  /** A whole folder. */
  folder?: boolean;
}

export function FilePicker({ label, hint, fault, files, onFiles, accept, folder }: FilePickerProperties) {
  return (
    <Frame label={label} hint={hint} fault={fault}>
      {(marks) => (
        <input
          {...marks}
          type="file"
          accept={accept}
          multiple={folder}
          ref={(input) => {
            if (input && folder) input.webkitdirectory = true;
            if (input && files.length === 0 && input.value) input.value = "";
          }}
          onChange={(event) => onFiles([...(event.currentTarget.files ?? [])])}
        />
      )}
    </Frame>
  );
}
