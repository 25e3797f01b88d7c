# PowerShell completion for poprep. @NOTE@

Register-ArgumentCompleter -Native -CommandName 'poprep', 'poprep.exe' -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $tree = @{
@TREE@
    }
    $takers = @(
@TAKERS@
    )
    $choices = @{
@CHOICES@
    }
    $command = ''
    $option = ''
    $config = ''
    $before = @($commandAst.CommandElements | Select-Object -Skip 1 | Where-Object { $_.Extent.EndOffset -lt $cursorPosition })
    foreach ($element in $before) {
        $word = if ($element -is [System.Management.Automation.Language.StringConstantExpressionAst]) { [string]$element.Value } else { $element.Extent.Text }
        if ($option) {
            if ($option -eq '--config') { $config = $word }
            $option = ''
        }
        elseif ($takers -ccontains "$command|$word") { $option = $word }
        elseif ($word -clike '--config=*') { $config = $word.Substring(9) }
        elseif ($tree.ContainsKey("$command $word".Trim())) { $command = "$command $word".Trim() }
    }
    if ($option) {
        # Without an answer PowerShell completes file names.
        if (-not $choices.ContainsKey("$command|$option")) { return }
        $choices["$command|$option"] | Where-Object { $_ -like "$wordToComplete*" } |
            ForEach-Object { [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_) }
        return
    }
    foreach ($pair in $tree[$command]) {
        $name, $text = $pair -split '\|', 2
        $isOption = $name.StartsWith('-')
        if ($isOption -ne $wordToComplete.StartsWith('-') -or $name -cnotlike "$wordToComplete*") { continue }
        $kind = if ($isOption) { 'ParameterName' } else { 'ParameterValue' }
        [System.Management.Automation.CompletionResult]::new($name, $name, $kind, $text)
    }
    if (@(@CONNECTORS@) -cnotcontains $command -or $wordToComplete.StartsWith('-')) { return }
    if (-not $config) { $config = $env:POPREP_CONFIG }
    if (-not $config) {
        $config = @(
            if ($env:LOCALAPPDATA) { Join-Path $env:LOCALAPPDATA 'poprep/poprep.toml' }
            if ($env:XDG_CONFIG_HOME) { Join-Path $env:XDG_CONFIG_HOME 'poprep/poprep.toml' }
            Join-Path $HOME '.config/poprep/poprep.toml'
            Join-Path $HOME 'Library/Application Support/poprep/poprep.toml'
        ) | Where-Object { Test-Path -LiteralPath $_ -PathType Leaf } | Select-Object -First 1
    }
    if (-not $config -or -not (Test-Path -LiteralPath $config -PathType Leaf)) { return }
    Get-Content -LiteralPath $config -ErrorAction SilentlyContinue |
        ForEach-Object { if ($_ -match '^\s*\[connector\.(?:([A-Za-z0-9_-]+)|"([A-Za-z0-9._-]+)")') { "$($Matches[1])$($Matches[2])" } } |
        Sort-Object -Unique | Where-Object { $_ -like "$wordToComplete*" } |
        ForEach-Object { [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', "connector $_") }
}
